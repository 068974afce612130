// Which calls of a tool its signals break off.
//
// Any signal ends a call that waits for the supervisor to take it up, also one that a kernel never breaks off: open of
// a file, fork. With SA_RESTART the kernel makes such a call again when the handler is done; so every handler gets it.
// A call that does wait, for a pipe or a child, and whose handler was to break it off, is made to end with EINTR on the
// way out of the handler, where the frame on the stack says which call is to be made again.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "redirect/handlers.h"

namespace penumbra {

namespace {

struct SignalAction {  // struct sigaction, include/linux/signal_types.h
  uint64_t handler, flags, restorer, mask;
};

/// struct rt_sigframe without its return address: arch/x86/include/asm/sigframe.h, uapi/asm/{ucontext,sigcontext}.h
struct SignalFrame {
  uint64_t flags, link, stack[3];
  uint64_t r8_to_r15[8];
  uint64_t di, si, bp, bx, dx, ax, cx, sp, ip;
  uint64_t rest[15];
  uint64_t mask;
  int32_t signal;
};
static_assert(offsetof(SignalFrame, ip) == 168 && offsetof(SignalFrame, signal) == 304);

constexpr std::array<uint8_t, 2> kSyscallInstruction = {0x0f, 0x05};

/// The stack pointer of a thread that is in a call: the second but last of /proc/PID/task/TID/syscall; 0 if unknown.
uint64_t StackOf(const ToolCall& call) {
  char path[48];
  std::snprintf(path, sizeof path, "task/%d/syscall", call.thread);
  const int fd = openat(call.process->folder, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[256];
  const ssize_t length = read(fd, text, sizeof text - 1);
  close(fd);
  text[std::max<ssize_t>(length, 0)] = 0;
  unsigned long long stack = 0;
  return std::sscanf(text, "%*d %*x %*x %*x %*x %*x %*x %llx", &stack) == 1 ? stack : 0;
}

/// Whether a file of the host may keep its reader waiting.
bool CanWait(Supervisor& supervisor, const ToolCall& call, uint64_t fd) {
  if (supervisor.FileOf(call, fd) != ToolProcess::kLocal) return false;
  const int copy = supervisor.CopyFd(call, fd);
  if (copy < 0) return false;
  struct stat status;
  const bool waits = fstat(copy, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
  close(copy);
  return waits;
}

/// Whether a signal may break the call off that the frame goes back to: one that is carried out by the host and waits.
bool IsWait(Supervisor& supervisor, const ToolCall& call, const SignalFrame& frame) {
  switch (frame.ax) {
    case SYS_wait4:
    case SYS_waitid:
    case SYS_futex:
      return true;
    case SYS_fcntl:
      return static_cast<uint32_t>(frame.si) == F_SETLKW;
    case SYS_flock:
      return true;
    case SYS_read:
    case SYS_readv:
    case SYS_write:
    case SYS_writev:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_sendto:
    case SYS_sendmsg:
      return CanWait(supervisor, call, frame.di);
    default:
      return false;
  }
}

}  // namespace

/// rt_sigaction: SA_SIGINFO lets the frame say which signal it is of.
Answer HandleSignalAction(Supervisor&, ToolCall& call) {
  constexpr uint64_t kAdded = SA_RESTART | SA_SIGINFO;
  SignalAction action;
  const ToolMemory& memory = call.process->memory;
  if (!memory.ReadValue(call.arguments[1], &action)) return Answer::Continue();
  const int signal = static_cast<int>(call.arguments[0]);
  std::map<int, uint64_t>& breaking = call.process->breaking_handlers;
  const bool is_caught =
      action.handler != reinterpret_cast<uint64_t>(SIG_DFL) && action.handler != reinterpret_cast<uint64_t>(SIG_IGN);
  if (is_caught && (action.flags & SA_RESTART) == 0) {
    action.flags |= kAdded;
    // Memory that is only to be read: the handler stays as it is, and may break off calls that no kernel does.
    if (!memory.Write(call.arguments[1], &action, sizeof action)) return Answer::Continue();
    breaking[signal] = action.handler;
    return Answer::Continue();
  }
  // Put back as it was found, it stays what it was.
  const auto before = breaking.find(signal);
  const bool is_same =
      before != breaking.end() && before->second == action.handler && (action.flags & kAdded) == kAdded;
  if (is_caught && !is_same) breaking.erase(signal);
  return Answer::Continue();
}

/// rt_sigreturn
Answer HandleSignalReturn(Supervisor& supervisor, ToolCall& call) {
  if (call.process->breaking_handlers.empty()) return Answer::Continue();
  const uint64_t stack = StackOf(call);
  SignalFrame frame;
  const ToolMemory& memory = call.process->memory;
  std::array<uint8_t, 2> next;
  if (stack == 0 || !memory.ReadValue(stack, &frame) || !call.process->breaking_handlers.contains(frame.signal) ||
      !memory.ReadValue(frame.ip, &next) || next != kSyscallInstruction || !IsWait(supervisor, call, frame)) {
    return Answer::Continue();
  }
  frame.ax = static_cast<uint64_t>(-EINTR);
  frame.ip += next.size();
  memory.Write(stack + offsetof(SignalFrame, ax), &frame.ax, sizeof frame.ax);
  memory.Write(stack + offsetof(SignalFrame, ip), &frame.ip, sizeof frame.ip);
  return Answer::Continue();
}

}  // namespace penumbra
