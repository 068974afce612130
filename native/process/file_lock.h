// A lock that lives as long as the process that holds it.
#ifndef PENUMBRA_NATIVE_PROCESS_FILE_LOCK_H_
#define PENUMBRA_NATIVE_PROCESS_FILE_LOCK_H_

#include <string>

namespace penumbra {

struct FileLock {
  int fd;              // of the held lock (close-on-exec), or -1 when another process holds it
  std::string holder;  // then: what that process wrote into the file
};

/// Locks the file `path` (made with mode 0600, never through a symbolic link) by flock(2) and writes `owner`
/// into it. Never waits. The kernel drops the lock when the last duplicate of the fd is closed, so a dead
/// holder holds nothing.
/// Throws Error("PERMISSION") when the file cannot be opened, "INTERNAL" when locking itself fails.
FileLock TryLockFile(const std::string& path, const std::string& owner);

/// Removes the file and gives the lock back.
void UnlockFile(const std::string& path, int fd);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_FILE_LOCK_H_
