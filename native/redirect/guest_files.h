// The guest's files that a tool has open, and what stands for them in the tool.
#ifndef PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_
#define PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "redirect/tool_process.h"

namespace penumbra {

struct GuestFile {
  uint64_t serial;     ///< tells it from others that had the same number before
  uint64_t opened_at;  ///< count of sharings then
  pid_t owner;
  uint32_t references = 1;  ///< fds of its owner; counts only until it is shared
  int family = 0;           ///< of a socket
  int protocol = 0;
  bool writable = false;
  uint64_t listed = 0;  ///< bytes of entries that were read of a directory
};

/// In the tool a file of the guest is a memfd whose name says which: the host's kernel duplicates, inherits and closes
/// it as it does any file, and the truth of who has it open can be read back at any time.
class GuestFiles {
 public:
  static constexpr int kFirst = 500;
  static constexpr int kEnd = 1024;

  /// Notes a file that the guest has opened; returns a memfd to stand for it, which the caller closes, or -errno.
  int Add(int guest_fd, pid_t owner);
  /// One more memfd to stand for a file that is known; the caller closes it. -errno when there is no such file.
  int MakeAnother(int guest_fd);
  GuestFile* Find(int guest_fd);
  void Remove(int guest_fd) { files_.erase(guest_fd); }

  /// Counts what a directory gave. False: that is more than any has, and it may well have no end.
  bool NoteListed(int guest_fd, uint64_t bytes);

  /// The guest's file behind `fd` of `process`: its number, or ToolProcess::kLocal.
  int Resolve(ToolProcess* process, int fd);

  /// Files open now may be open in several processes from now on, or have been closed by an exec.
  void NoteSharing() { ++sharings_; }
  /// The owner has one more fd for it.
  void AddReference(int guest_fd);
  /// An fd for it was closed; true when nobody has another, and the guest's is to be closed.
  bool DropReference(int guest_fd);
  bool IsShared(const GuestFile& file) const { return file.opened_at < sharings_; }
  /// A shared file was closed somewhere: perhaps for the last time.
  void NoteMaybeUnused(int guest_fd) { maybe_unused_.push_back(guest_fd); }
  void NoteEndOfProcess();

  /// Files that nobody has open any more, removed from the table; the caller closes them in the guest.
  /// `root` is the process from which all of the tool's descend.
  std::vector<int> TakeUnused(pid_t root);

  size_t count() const { return files_.size(); }

 private:
  std::map<int, GuestFile> files_;
  std::vector<int> maybe_unused_;
  uint64_t next_serial_ = 1;
  uint64_t sharings_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_GUEST_FILES_H_
