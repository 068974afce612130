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
  bool whole = false;   ///< what stands for it has its contents, and the position that the tool reads at
  uint64_t listed = 0;  ///< bytes of entries that were read of a directory
};

class GuestFiles {
 public:
  static constexpr int kFirst = 500;
  static constexpr int kEnd = 1024;
  /// In a tool files that it has whole are numbered from here on: the filter lets them be read, and nothing else get
  /// such a number.
  static constexpr int kFirstWhole = kEnd;
  static constexpr int WholeNumber(int guest_fd) { return kFirstWhole + (guest_fd - kFirst); }

  /// Notes a file that the guest has opened; returns what stands for it, which the caller closes, or -errno. With
  /// `contents` it is whole, unless there is no room for them.
  int Add(int guest_fd, const std::vector<uint8_t>* contents);
  /// One more placeholder for a file that is known; the caller closes it. -errno when there is no such file.
  int AddAnother(int guest_fd);
  /// What stands for it was filled with contents to be mapped.
  void NoteFilled(int guest_fd) { placeholders_.NoteFilled(guest_fd); }
  GuestFile* Find(int guest_fd);
  bool IsWhole(int guest_fd) {
    const GuestFile* file = Find(guest_fd);
    return file != nullptr && file->whole;
  }
  /// Whether any is.
  bool has_whole() const { return wholes_ > 0; }

  /// Counts what a directory gave. False: that is more than any has, and it may well have no end.
  bool NoteListed(int guest_fd, uint64_t bytes);

  /// The guest's file behind `fd` of a thread of `process`: its number, or ToolProcess::kLocal.
  int Resolve(const ToolProcess& process, pid_t thread, int fd);

  /// Files that nobody has open any more, removed from the table; the caller closes them in the guest.
  std::vector<int> TakeUnused();

 private:
  Placeholders placeholders_;
  std::map<int, GuestFile> files_;
  size_t wholes_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_
