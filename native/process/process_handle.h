// A process that is not a child of this one.
#ifndef PENUMBRA_NATIVE_PROCESS_PROCESS_HANDLE_H_
#define PENUMBRA_NATIVE_PROCESS_PROCESS_HANDLE_H_

#include <sys/types.h>

#include <chrono>

namespace penumbra {

/// One process, whoever has its pid later (pidfd_open(2), since Linux 5.3).
class ProcessHandle {
 public:
  explicit ProcessHandle(pid_t pid);
  ~ProcessHandle();
  ProcessHandle(const ProcessHandle&) = delete;
  ProcessHandle& operator=(const ProcessHandle&) = delete;

  /// Whether it has ended, or ends within `patience`: its sockets are closed a little before that. False where the host
  /// does not tell.
  bool HasEnded(std::chrono::milliseconds patience) const;

 private:
  int fd_;
  bool was_gone_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_PROCESS_HANDLE_H_
