#include "redirect/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "error.h"

namespace penumbra {

namespace {

constexpr int kControlFd = 3;

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// Every signal at its default and none blocked: this process ignores some that a tool must not ignore.
pid_t Spawn(const LaunchRequest& request, int control) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  // First out of the way of the numbers that they are to have in the end.
  const int sources[] = {request.standard_fds[0], request.standard_fds[1], request.standard_fds[2], control};
  std::vector<int> moved;
  for (const int fd : sources) moved.push_back(fcntl(fd, F_DUPFD_CLOEXEC, 10));
  for (int i = 0; i <= kControlFd; ++i) {
    if (moved[i] >= 0) posix_spawn_file_actions_adddup2(&files, moved[i], i);
  }
  posix_spawn_file_actions_addclosefrom_np(&files, kControlFd + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> arguments = {"penumbra-launcher", std::to_string(kControlFd), request.program};
  arguments.insert(arguments.end(), request.arguments.begin(), request.arguments.end());
  pid_t pid = -1;
  const int error = posix_spawn(&pid, request.launcher.c_str(), &files, &attributes, Pointers(arguments).data(),
                                Pointers(request.environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  for (const int fd : moved) close(fd);
  if (error != 0) throw Error("INTERNAL", "cannot start " + request.launcher + ": " + std::strerror(error));
  return pid;
}

bool Receive(int control, LaunchMessage* message, int* fd) {
  iovec piece = {message, sizeof *message};
  alignas(cmsghdr) char space[CMSG_SPACE(sizeof *fd)];
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = space;
  header.msg_controllen = sizeof space;
  ssize_t length;
  do {
    length = recvmsg(control, &header, MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length != sizeof *message) return false;
  const cmsghdr* attached = CMSG_FIRSTHDR(&header);
  if (attached != nullptr && attached->cmsg_type == SCM_RIGHTS) std::memcpy(fd, CMSG_DATA(attached), sizeof *fd);
  return true;
}

}  // namespace

void RunInterrupter::Interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  if (control_ >= 0) shutdown(control_, SHUT_RDWR);
}

void RunInterrupter::Watch(int control) {
  const std::lock_guard lock(mutex_);
  control_ = control;
  if (interrupted_ && control_ >= 0) shutdown(control_, SHUT_RDWR);
}

LaunchedTool::LaunchedTool(const LaunchRequest& request, const std::vector<sock_filter>& filter,
                           std::shared_ptr<RunInterrupter> interrupter)
    : interrupter_(std::move(interrupter)) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) throw SystemError("INTERNAL", "socketpair");
  control_ = pair[0];
  try {
    launcher_ = Spawn(request, pair[1]);
    close(pair[1]);
    pair[1] = -1;
    interrupter_->Watch(control_);
    send(control_, filter.data(), filter.size() * sizeof(sock_filter), MSG_NOSIGNAL);
    LaunchMessage message = {};
    if (!Receive(control_, &message, &listener_)) {
      if (interrupter_->interrupted()) throw Error("INTERNAL", "interrupted before the tool began");
      throw Error("INTERNAL", "the launcher ended before the tool began");
    }
    if (message.kind != LaunchMessage::kListening || listener_ < 0) {
      throw Error("UNSUPPORTED",
                  "this host's kernel does not give a seccomp listener: " + std::string(std::strerror(message.value)));
    }
  } catch (...) {
    if (pair[1] >= 0) close(pair[1]);
    interrupter_->Watch(-1);
    if (listener_ >= 0) close(listener_);
    close(control_);
    if (launcher_ > 0) waitpid(launcher_, nullptr, 0);
    throw;
  }
}

LaunchedTool::~LaunchedTool() {
  interrupter_->Watch(-1);
  close(control_);
  // Calls that wait for an answer fail now, so that nothing keeps a process from being ended.
  close(listener_);
  while (waitpid(launcher_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool LaunchedTool::ReceiveEnd(LaunchMessage* message) {
  int unexpected = -1;
  const bool received = Receive(control_, message, &unexpected);
  if (unexpected >= 0) close(unexpected);
  return received;
}

}  // namespace penumbra
