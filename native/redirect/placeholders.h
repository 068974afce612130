// What stands in a tool for the guest's files.
#ifndef PENUMBRA_NATIVE_REDIRECT_PLACEHOLDERS_H_
#define PENUMBRA_NATIVE_REDIRECT_PLACEHOLDERS_H_

#include <sys/types.h>

#include <map>
#include <optional>
#include <vector>

namespace penumbra {

/// Memory files whose name says which file of the guest they stand for. The host's kernel duplicates, inherits, passes
/// on and closes them as it does any file, and tells (inotify) when nobody has one open or mapped any more: nothing
/// that a tool does with its descriptors has to be watched for that.
class Placeholders {
 public:
  /// Throws Error UNSUPPORTED where files cannot be watched.
  Placeholders();
  ~Placeholders();
  Placeholders(const Placeholders&) = delete;
  Placeholders& operator=(const Placeholders&) = delete;

  /// The one that each of the guest's files has, opened anew; the caller closes it. -errno on failure. Not to be called
  /// again before TakeClosed has told of it.
  int Open(int guest_fd);
  /// It has contents now, which the next file of this number must not have.
  void NoteFilled(int guest_fd);
  /// One more for the same file, with a position and contents of its own.
  int OpenAnother(int guest_fd);

  /// Files of the guest, each as often as something that stood for it was closed for the last time.
  std::vector<int> TakeClosed();

  /// The file of the guest that `fd` of a thread stands for; `folder` is /proc/PID.
  static std::optional<int> NumberOf(int folder, pid_t thread, int fd);

 private:
  struct Watched {
    int guest_fd;
    bool once;  ///< it is opened a single time
  };
  struct Kept {
    int path;  ///< opened with O_PATH, which counts as nothing to inotify
    bool filled;
  };

  /// A new file in memory, opened by its path.
  int MakeMemory(int guest_fd, int flags) const;
  int OpenAgain(int fd, int flags) const;
  int Watch(int file, const Watched& watched);

  int events_ = -1;
  int own_files_ = -1;              ///< /proc/self/fd
  std::map<int, Kept> kept_;        ///< by the guest's number
  std::map<int, Watched> watched_;  ///< by watch descriptor
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_PLACEHOLDERS_H_
