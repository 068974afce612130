#include <elf.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "redirect/handlers.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41  // since 5.17
#endif

namespace penumbra {

namespace {

constexpr size_t kPathRoom = 4096;

/// 0 when the host may execute it; a script's path is noted, for its interpreter reads it.
int CheckProgram(Supervisor& supervisor, ToolCall& call, const char* path) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno;
  struct stat status;
  uint8_t head[20] = {};
  const bool known = fstat(fd, &status) == 0;
  const ssize_t length = known && S_ISREG(status.st_mode) ? pread(fd, head, sizeof head, 0) : -1;
  close(fd);
  if (!known || !S_ISREG(status.st_mode) || faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) != 0) return EACCES;
  const bool changes_user = (status.st_mode & S_ISUID) != 0 && status.st_uid != geteuid();
  const bool changes_group = (status.st_mode & S_ISGID) != 0 && status.st_gid != getegid();
  if (changes_user || changes_group) {
    supervisor.Refuse(call, std::string(path) + " runs with the rights of another user");
    return EPERM;
  }
  if (length >= 2 && head[0] == '#' && head[1] == '!') {
    call.process->script = path;
    return 0;
  }
  if (length < 20 || std::memcmp(head, ELFMAG, SELFMAG) != 0) return ENOEXEC;
  uint16_t machine;
  std::memcpy(&machine, head + 18, sizeof machine);
  if (head[EI_CLASS] != ELFCLASS64 || machine != EM_X86_64) {
    supervisor.Refuse(call, std::string(path) + " is no 64-bit program for x86");
    return ENOEXEC;
  }
  return 0;
}

}  // namespace

/// Programs are the host's. The kernel reads the path once more after this; whatever it then finds is under the same
/// filter and gains no rights (PR_SET_NO_NEW_PRIVS).
Answer HandleExecute(Supervisor& supervisor, ToolCall& call) {
  const bool has_folder = call.number == SYS_execveat;
  if (has_folder && static_cast<int>(call.arguments[0]) != AT_FDCWD) return Answer::Error(ENOSYS);
  char path[kPathRoom];
  const int length = call.process->memory.ReadString(call.arguments[has_folder ? 1 : 0], path, sizeof path);
  if (length < 0) return Answer::Error(length == -1 ? EFAULT : ENAMETOOLONG);
  // The host's working directory is /, whichever is the guest's.
  if (path[0] != '/' && call.process->cwd != nullptr) return Answer::Error(ENOENT);
  const std::string absolute = (path[0] == '/' ? "" : "/") + std::string(path);
  if (std::strncmp(path, "/proc/", 6) != 0) {
    if (const int error = CheckProgram(supervisor, call, absolute.c_str())) return Answer::Error(error);
  } else if (std::strcmp(path, "/proc/self/exe") != 0) {
    return Answer::Error(EACCES);
  }
  supervisor.NoteProgress();
  // Memory, loader and clock page will be others; until then the other threads go on in these.
  call.process->executing.push_back(call.thread);
  return Answer::Continue();
}

/// clone, fork and vfork: children inherit the filter.
Answer HandleClone(Supervisor& supervisor, ToolCall& call) {
  constexpr uint64_t kNamespaces =
      CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
  const uint64_t flags = call.number == SYS_clone ? call.arguments[0] : 0;
  if ((flags & kNamespaces) != 0) return supervisor.Refuse(call, "namespaces");
  if ((flags & (CLONE_FILES | CLONE_THREAD)) == CLONE_FILES) return Answer::Error(EINVAL);
  supervisor.NoteProgress();
  if ((flags & CLONE_THREAD) == 0) {
    // First: the caller may be among those that have ended.
    ++call.process->unknown_children;
    supervisor.processes().DropEnded();
    if (supervisor.processes().count() >= supervisor.policy().most_processes) {
      supervisor.Say("the tool has too many processes: no more are started");
      return Answer::Error(EAGAIN);
    }
  }
  return Answer::Continue();
}

/// Signals among the tool's own processes are sent from here; whether a process of the guest is there can be asked.
Answer HandleKill(Supervisor& supervisor, ToolCall& call) {
  const bool is_thread = call.number == SYS_tgkill;
  const int64_t target = static_cast<int32_t>(call.arguments[0]);
  const int signal = static_cast<int>(call.arguments[is_thread ? 2 : 1]);
  const int64_t own = static_cast<int64_t>(supervisor.guest_pid());
  if (call.number == SYS_tkill) {
    const int64_t thread = target == own ? call.process->pid : target;
    return syscall(SYS_tgkill, call.process->pid, thread, signal) == 0 ? Answer::Value(0) : Answer::Error(errno);
  }
  // What a tool calls its own number is also that of the borrowed task, whom a user may mean: raise() and abort() name
  // the thread.
  ToolProcess* process = target == own && is_thread ? call.process : nullptr;
  if (process == nullptr && target > 0 && target != own) {
    supervisor.processes().DropEnded();
    process = supervisor.processes().WithPid(static_cast<pid_t>(target));
    if (process == nullptr && supervisor.IsOfTool(static_cast<pid_t>(target))) {
      process = supervisor.processes().Find(static_cast<pid_t>(target));
    }
  }
  if (process != nullptr) {
    if (!is_thread) {
      const long sent = syscall(SYS_pidfd_send_signal, process->pidfd, signal, nullptr, 0);
      return sent == 0 ? Answer::Value(0) : Answer::Error(errno);
    }
    const int64_t thread = static_cast<int32_t>(call.arguments[1]);
    const int64_t tid = thread == own ? process->pid : thread;
    return syscall(SYS_tgkill, process->pid, tid, signal) == 0 ? Answer::Value(0) : Answer::Error(errno);
  }
  if (signal == 0 || supervisor.policy().scratch) {
    return Answer::Value(supervisor.Ask(call.number, call.arguments[0], call.arguments[1], call.arguments[2]));
  }
  return supervisor.Refuse(call);
}

/// The first thread has the guest's number, so that it equals getpid(); others have their own.
Answer HandleThreadId(Supervisor& supervisor, ToolCall& call) {
  if (call.thread == call.process->pid) return Answer::Value(static_cast<int64_t>(supervisor.guest_pid()));
  return Answer::Value(call.thread);
}

/// prctl: what concerns the calling program is done, what concerns its rights is asked of the guest.
Answer HandleProcessControl(Supervisor& supervisor, ToolCall& call) {
  switch (static_cast<int>(call.arguments[0])) {
    case PR_SET_PDEATHSIG:
    case PR_GET_PDEATHSIG:
    case PR_SET_NAME:
    case PR_GET_NAME:
    case PR_GET_DUMPABLE:
    case PR_GET_TIMERSLACK:
    case PR_SET_TIMERSLACK:
    case PR_GET_NO_NEW_PRIVS:
    case PR_SET_NO_NEW_PRIVS:
    case PR_GET_TID_ADDRESS:
    case PR_GET_THP_DISABLE:
    case PR_SET_VMA:
      return Answer::Continue();
    case PR_CAPBSET_READ:
    case PR_GET_SECUREBITS:
    case PR_GET_KEEPCAPS:
      return Answer::Value(supervisor.Ask(SYS_prctl, call.arguments[0], call.arguments[1]));
    case PR_CAP_AMBIENT:
      if (call.arguments[1] != PR_CAP_AMBIENT_IS_SET) break;
      return Answer::Value(supervisor.Ask(SYS_prctl, call.arguments[0], call.arguments[1], call.arguments[2]));
    default:
      break;
  }
  return Answer::Error(EINVAL);
}

/// prlimit64: asking is the guest's, setting is not done.
Answer HandleLimits(Supervisor& supervisor, ToolCall& call) {
  if (call.arguments[2] != 0 && !supervisor.policy().scratch) return supervisor.Refuse(call);
  return supervisor.AskByRule(call);
}

}  // namespace penumbra
