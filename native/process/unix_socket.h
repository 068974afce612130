// Unix domain sockets: connecting, peer credentials, passing file descriptors.
#ifndef PENUMBRA_NATIVE_PROCESS_UNIX_SOCKET_H_
#define PENUMBRA_NATIVE_PROCESS_UNIX_SOCKET_H_

#include <sys/types.h>

#include <array>
#include <span>
#include <string>
#include <string_view>

namespace penumbra {

struct UnixConnection {
  int fd;  // close-on-exec, non-blocking
  // Of the process that called listen() on the socket: not the one that accepts, where a listening socket was
  // handed on (libvirt does so). 0 when it lives outside our pid namespace.
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

/// Connects to the stream socket at `path`, of any length: beyond the 107 bytes of sockaddr_un it goes
/// through /proc/self/fd of its directory. Does not wait for the other side to accept.
/// Throws Error("NO_GUEST") where nothing is, "GUEST_GONE" where nobody listens any more, "PERMISSION" naming
/// the right that is missing, "QMP_BUSY" when too many clients wait already, "NOT_QEMU" where something else
/// than a stream socket is.
UnixConnection ConnectUnix(const std::string& path);

/// Sends all of `bytes` and, with the first of them, duplicates of `fds` (SCM_RIGHTS, at most 16).
/// Throws Error("GUEST_GONE") when the other side is closed, "TIMEOUT" when it does not read for 5 s.
void SendWithFds(int fd, std::string_view bytes, std::span<const int> fds);

/// Two connected stream sockets, close-on-exec.
std::array<int, 2> StreamSocketPair();

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_UNIX_SOCKET_H_
