// Files of the guest that the host's kernel copies from.
#ifndef PENUMBRA_NATIVE_REDIRECT_MOVED_FILES_H_
#define PENUMBRA_NATIVE_REDIRECT_MOVED_FILES_H_

#include <sys/types.h>

#include <map>
#include <vector>

namespace penumbra {

/// The host's kernel copies out of what stands for a guest's file and moves on the position of that; the guest's file
/// has to follow before it is used again.
class MovedFiles {
 public:
  MovedFiles() = default;
  ~MovedFiles();
  MovedFiles(const MovedFiles&) = delete;
  MovedFiles& operator=(const MovedFiles&) = delete;

  bool empty() const { return moved_.empty(); }
  /// `copy` stands for the guest's file from its present position on, in a call of this thread; it is taken over.
  void Watch(int guest_fd, int copy, pid_t thread);
  /// Files whose call is over: `thread` makes another one, or there is no such thread any more.
  std::vector<int> Ended(pid_t thread) const;
  /// Bytes by which the host's kernel has gone on since the last question.
  off_t TakeMove(int guest_fd);
  void Forget(int guest_fd);

 private:
  struct Moved {
    int copy;
    off_t seen;
    pid_t thread;
  };
  std::map<int, Moved> moved_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_MOVED_FILES_H_
