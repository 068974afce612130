#include "process/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

namespace penumbra {

namespace {

constexpr size_t kLongestOwner = 4096;

// A holder that ends removes the file: what we locked may no longer be what the path names.
bool IsStillNamed(int fd, const std::string& path) {
  struct stat locked;
  struct stat named;
  return fstat(fd, &locked) == 0 && stat(path.c_str(), &named) == 0 && locked.st_dev == named.st_dev &&
         locked.st_ino == named.st_ino;
}

std::string ReadOwner(int fd) {
  std::string text(kLongestOwner, '\0');
  const ssize_t size = pread(fd, text.data(), text.size(), 0);
  text.resize(size < 0 ? 0 : static_cast<size_t>(size));
  return text;
}

void WriteOwner(int fd, const std::string& owner) {
  const std::string text = owner.substr(0, kLongestOwner);
  if (ftruncate(fd, 0) != 0 || pwrite(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    throw SystemError("INTERNAL", "cannot write the lock file");
  }
}

}  // namespace

FileLock TryLockFile(const std::string& path, const std::string& owner) {
  for (;;) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) throw SystemError("PERMISSION", "cannot open the lock file " + path);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      const int number = errno;
      FileLock held{-1, ReadOwner(fd)};
      close(fd);
      if (number == EWOULDBLOCK) return held;
      errno = number;
      throw SystemError("INTERNAL", "cannot lock " + path);
    }
    if (!IsStillNamed(fd, path)) {
      close(fd);
      continue;
    }
    try {
      WriteOwner(fd, owner);
    } catch (...) {
      close(fd);
      throw;
    }
    return {fd, ""};
  }
}

void UnlockFile(const std::string& path, int fd) {
  unlink(path.c_str());
  close(fd);
}

}  // namespace penumbra
