#include "process/process_handle.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace penumbra {

ProcessHandle::ProcessHandle(pid_t pid)
    : fd_(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))), was_gone_(fd_ < 0 && errno == ESRCH) {}

ProcessHandle::~ProcessHandle() {
  if (fd_ >= 0) close(fd_);
}

bool ProcessHandle::HasEnded(std::chrono::milliseconds patience) const {
  if (fd_ < 0) return was_gone_;
  pollfd watched = {fd_, POLLIN, 0};
  return poll(&watched, 1, static_cast<int>(patience.count())) > 0;
}

}  // namespace penumbra
