// penumbra-launcher FD PROGRAM ARGV0 [ARGS...]: becomes the parent of a redirected tool.
//
// A child of it installs the filter and executes the tool. The launcher itself stays outside the filter; every process
// that the tool leaves behind becomes its child (PR_SET_CHILD_SUBREAPER), so that none can outlive the run.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "redirect/launch_protocol.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace penumbra {

namespace {

constexpr size_t kMostInstructions = 4096;
constexpr rlim_t kWantedFiles = 4096;
constexpr int kNothing = -1;

/// Shared with the child. It cannot send the notification fd itself: its calls wait for the supervisor by then.
struct Page {
  std::atomic<int> listener;  ///< kNothing until the filter is installed; below that -errno - 1
};

[[noreturn]] void BecomeTool(Page* page, const sock_fprog& filter, const char* program, char** arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  // Once the supervisor has taken a call up only a fatal signal ends it: it must not be run twice (since 5.19).
  long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                    SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &filter);
  if (fd < 0 && errno == EINVAL) {
    fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &filter);
  }
  page->listener.store(fd < 0 ? -errno - 1 : static_cast<int>(fd));
  syscall(SYS_futex, &page->listener, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  if (fd >= 0) execv(program, arguments);
  _exit(errno == ENOENT ? 127 : 126);
}

void Send(int control, LaunchMessage message, int fd = -1) {
  iovec piece = {&message, sizeof message};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof fd)] = {};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  if (fd >= 0) {
    header.msg_control = space;
    header.msg_controllen = sizeof space;
    cmsghdr* attached = CMSG_FIRSTHDR(&header);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(attached), &fd, sizeof fd);
  }
  // A supervisor that is gone shows as end of file later on.
  sendmsg(control, &header, MSG_NOSIGNAL);
}

int AwaitListener(Page* page) {
  while (page->listener.load() == kNothing) {
    const timespec pause = {0, 50'000'000};
    syscall(SYS_futex, &page->listener, FUTEX_WAIT, kNothing, &pause, nullptr, 0);
    siginfo_t ended = {};
    if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid != 0 &&
        page->listener.load() == kNothing) {
      return -ECHILD - 1;
    }
  }
  return page->listener.load();
}

/// Ends all children, and theirs as they become ours, until there is none. Returns how many there were.
uint32_t EndAll() {
  uint32_t ended = 0;
  const int list = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
  for (;;) {
    char text[4096];
    const ssize_t length = list < 0 ? 0 : pread(list, text, sizeof text - 1, 0);
    text[length > 0 ? length : 0] = 0;
    for (char* at = text; *at != 0;) {
      char* end;
      const long pid = std::strtol(at, &end, 10);
      if (end == at) break;
      if (pid > 0) kill(static_cast<pid_t>(pid), SIGKILL);
      at = end;
      while (*at == ' ') ++at;
    }
    const pid_t pid = waitpid(-1, nullptr, __WALL);
    if (pid < 0 && errno == ECHILD) return ended;
    if (pid > 0) ++ended;
  }
}

/// The wait status of `tool` once it has ended; -1 when the supervisor is gone.
int AwaitTool(int control, pid_t tool, int signals) {
  pollfd watched[] = {{control, POLLIN, 0}, {signals, POLLIN, 0}};
  for (;;) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0;) {
      if (pid == tool) return status;
    }
    if (poll(watched, 2, -1) < 0 && errno != EINTR) return -1;
    if (watched[0].revents != 0) return -1;
    signalfd_siginfo information;
    while (read(signals, &information, sizeof information) > 0) {
    }
  }
}

void PrepareProcess() {
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  umask(022);
  if (chdir("/") != 0) _exit(126);
  // A guest's files are numbered from 500 on.
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < kWantedFiles) {
    files.rlim_cur = files.rlim_max < kWantedFiles ? files.rlim_max : kWantedFiles;
    setrlimit(RLIMIT_NOFILE, &files);
  }
}

int Launch(int control, const char* program, char** arguments) {
  PrepareProcess();
  static sock_filter instructions[kMostInstructions];
  const ssize_t length = recv(control, instructions, sizeof instructions, 0);
  if (length <= 0 || length % sizeof(sock_filter) != 0) return 126;
  const sock_fprog filter = {static_cast<unsigned short>(length / sizeof(sock_filter)), instructions};

  void* memory = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 126;
  Page* page = new (memory) Page{kNothing};
  sigset_t blocked, before;
  sigfillset(&blocked);
  sigprocmask(SIG_SETMASK, &blocked, &before);
  // Shares the fd table until it executes the tool: that is how the notification fd gets here.
  const pid_t tool = static_cast<pid_t>(syscall(SYS_clone, CLONE_FILES | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (tool == 0) {
    sigprocmask(SIG_SETMASK, &before, nullptr);
    BecomeTool(page, filter, program, arguments);
  }
  const int listener = tool < 0 ? -errno - 1 : AwaitListener(page);
  if (listener < 0) {
    Send(control, {LaunchMessage::kFailed, -listener - 1, 0});
    EndAll();
    return 126;
  }
  sigset_t child_signal;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  const int signals = signalfd(-1, &child_signal, SFD_CLOEXEC | SFD_NONBLOCK);
  Send(control, {LaunchMessage::kListening, tool, 0}, listener);
  close(listener);
  const int status = AwaitTool(control, tool, signals);
  const uint32_t left_over = EndAll();
  if (status != -1) Send(control, {LaunchMessage::kEnded, status, left_over});
  return 0;
}

}  // namespace

}  // namespace penumbra

int main(int count, char** arguments) {
  if (count < 4) {
    std::fputs("penumbra-launcher is started by penumbra run\n", stderr);
    return 2;
  }
  const int control = std::atoi(arguments[1]);
  fcntl(control, F_SETFD, FD_CLOEXEC);
  return penumbra::Launch(control, arguments[2], arguments + 3);
}
