#include "process/unix_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "error.h"

namespace penumbra {

namespace {

constexpr size_t kMostFds = 16;
constexpr int kSendLimitMs = 5000;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

Error ConnectError(const std::string& path, int number) {
  errno = number;
  switch (number) {
    case ENOENT:
    case ENOTDIR:
      return Error("NO_GUEST", "there is no socket " + path);
    case ECONNREFUSED: {
      struct stat status;
      if (stat(path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode)) {
        return Error("NOT_QEMU", path + " is no socket");
      }
      return Error("GUEST_GONE", "nobody listens on " + path + " any more (its QEMU ended)");
    }
    case EACCES:
    case EPERM: {
      const std::string user = std::to_string(geteuid());
      return Error("PERMISSION",
                   "user " + user + " may not connect to " + path +
                       ": write permission on the socket, or search permission on one of its directories, is "
                       "missing (run penumbra as the socket's owner or as root)");
    }
    case EAGAIN:
      return Error("QMP_BUSY", path + " serves another client, and others wait for it already");
    case EPROTOTYPE:
      return Error("NOT_QEMU", path + " is no stream socket");
    default:
      return SystemError("NO_GUEST", "cannot connect to " + path);
  }
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());  // callers checked that it fits
  return address;
}

void ConnectTo(int fd, const std::string& address_path, const std::string& shown_path) {
  const sockaddr_un address = AddressOf(address_path);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    throw ConnectError(shown_path, errno);
  }
}

}  // namespace

UnixConnection ConnectUnix(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    throw Error("BAD_ARGUMENT", "a socket path may not be empty");
  }
  Fd socket_fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket_fd.get() < 0) throw SystemError("INTERNAL", "cannot make a socket");
  if (path.size() < sizeof(sockaddr_un::sun_path)) {
    ConnectTo(socket_fd.get(), path, path);
  } else {
    const size_t slash = path.rfind('/');
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const Fd directory_fd(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (directory_fd.get() < 0) throw ConnectError(path, errno);
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    const std::string through = "/proc/self/fd/" + std::to_string(directory_fd.get()) + "/" + name;
    if (through.size() >= sizeof(sockaddr_un::sun_path)) {
      throw Error("BAD_ARGUMENT", "the socket's name is too long: " + path);
    }
    ConnectTo(socket_fd.get(), through, path);
  }
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(socket_fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    throw SystemError("INTERNAL", "cannot ask whose socket " + path + " is");
  }
  return {socket_fd.Release(), peer.pid, peer.uid, peer.gid};
}

void SendWithFds(int fd, std::string_view bytes, std::span<const int> fds) {
  if (bytes.empty() || fds.size() > kMostFds) {
    throw Error("BAD_ARGUMENT", "file descriptors need bytes to go with, and are 16 at most");
  }
  alignas(cmsghdr) char control[CMSG_SPACE(kMostFds * sizeof(int))]{};
  while (!bytes.empty()) {
    iovec part{const_cast<char*>(bytes.data()), bytes.size()};  // sendmsg only reads it
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control;
      message.msg_controllen = CMSG_SPACE(fds.size_bytes());
      cmsghdr* const header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
    }
    const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
      fds = {};
    } else if (errno == EAGAIN) {
      pollfd poll_fd{fd, POLLOUT, 0};
      if (poll(&poll_fd, 1, kSendLimitMs) == 0) throw Error("TIMEOUT", "QEMU does not read from its socket");
    } else if (errno == EPIPE || errno == ECONNRESET) {
      throw Error("GUEST_GONE", "QEMU closed the connection");
    } else if (errno != EINTR) {
      throw SystemError("QMP", "cannot send to QEMU");
    }
  }
}

std::array<int, 2> StreamSocketPair() {
  std::array<int, 2> ends;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw SystemError("INTERNAL", "cannot make a pair of sockets");
  }
  return ends;
}

}  // namespace penumbra
