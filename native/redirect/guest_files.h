// The guest's files that a tool has open.
#ifndef PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_
#define PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_

#include <cstdint>
#include <map>
#include <vector>

#include "redirect/placeholders.h"
#include "redirect/tool_process.h"

namespace penumbra {

struct GuestFile {
  uint32_t placeholders = 1;  ///< that are open
  int family = 0;             ///< of a socket
  int protocol = 0;
  bool writable = false;
  uint64_t listed = 0;  ///< bytes of entries that were read of a directory
};

class GuestFiles {
 public:
  static constexpr int kFirst = 500;
  static constexpr int kEnd = 1024;

  /// Notes a file that the guest has opened; returns what stands for it, which the caller closes, or -errno.
  int Add(int guest_fd);
  /// One more placeholder for a file that is known; the caller closes it. -errno when there is no such file.
  int AddAnother(int guest_fd);
  /// What stands for it was filled with contents to be mapped.
  void NoteFilled(int guest_fd) { placeholders_.NoteFilled(guest_fd); }
  GuestFile* Find(int guest_fd);

  /// Counts what a directory gave. False: that is more than any has, and it may well have no end.
  bool NoteListed(int guest_fd, uint64_t bytes);

  /// The guest's file behind `fd` of a thread of `process`: its number, or ToolProcess::kLocal.
  int Resolve(const ToolProcess& process, pid_t thread, int fd);

  /// Files that nobody has open any more, removed from the table; the caller closes them in the guest.
  std::vector<int> TakeUnused();

 private:
  Placeholders placeholders_;
  std::map<int, GuestFile> files_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_
