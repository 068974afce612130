#include "process/foreign_descriptors.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "error.h"

namespace penumbra {

namespace {

Error Refusal(pid_t pid) {
  const std::string what = "cannot take open files of process " + std::to_string(pid);
  switch (errno) {
    case EPERM:
      return SystemError("PERMISSION", what);
    case ESRCH:
    case EBADF:
      return SystemError("GUEST_GONE", what);
    default:
      return SystemError("UNSUPPORTED", what);
  }
}

}  // namespace

std::vector<int> DuplicateFrom(pid_t pid, const std::vector<int>& numbers) {
  const int process = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (process < 0) throw Refusal(pid);
  std::vector<int> ours;
  for (const int number : numbers) {
    const int fd = static_cast<int>(syscall(SYS_pidfd_getfd, process, number, 0));
    if (fd < 0) {
      const Error error = Refusal(pid);
      for (const int open : ours) close(open);
      close(process);
      throw error;
    }
    ours.push_back(fd);
  }
  close(process);
  return ours;
}

}  // namespace penumbra
