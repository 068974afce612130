// Sockets of the guest: for asking its kernel, never for talking to anybody.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "redirect/handlers.h"
#include "redirect/tool_pieces.h"

namespace penumbra {

namespace {

constexpr uint64_t kMostAddress = sizeof(sockaddr_storage);
constexpr uint64_t kMostControl = 4096;
constexpr uint16_t kFirstOwnType = 16;  // NLMSG_MIN_TYPE
constexpr int kTypeMask = 0xf;          // SOCK_TYPE_MASK

/// Whether every message only asks. rtnetlink numbers its messages by fours: new, delete, get, set (rtnetlink.h).
bool OnlyAsks(const uint8_t* bytes, uint64_t length, int protocol) {
  if (length < sizeof(nlmsghdr)) return false;
  for (uint64_t at = 0; at + sizeof(nlmsghdr) <= length;) {
    nlmsghdr header;
    std::memcpy(&header, bytes + at, sizeof header);
    // The kernel goes no further then (netlink_rcv_skb, net/netlink/af_netlink.c).
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > length - at) break;
    if (header.nlmsg_type >= kFirstOwnType) {
      const bool dumps = (header.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
      switch (protocol) {
        case NETLINK_ROUTE:
          if ((header.nlmsg_type & 3) != 2) return false;
          break;
        case NETLINK_SOCK_DIAG:
          if (header.nlmsg_type > SOCK_DIAG_BY_FAMILY) return false;
          break;
        case NETLINK_GENERIC:
          // The controller tells which families there are; others have commands of their own.
          if (header.nlmsg_type != kFirstOwnType && !dumps) return false;
          break;
        default:
          if (!dumps) return false;
      }
    }
    at += NLMSG_ALIGN(header.nlmsg_len);
  }
  return true;
}

struct SocketCall {
  int number;
  GuestFile* file;
};

/// The guest's socket behind the first argument; number kLocal for one of the host.
SocketCall SocketOf(Supervisor& supervisor, ToolCall& call) {
  supervisor.NoteProgress();
  const int number = supervisor.FileOf(call, call.arguments[0]);
  return {number, number == ToolProcess::kLocal ? nullptr : supervisor.files().Find(number)};
}

bool MaySend(const Supervisor& supervisor, const GuestFile& file, const WindowPiece& message) {
  return file.family == AF_NETLINK &&
         (supervisor.policy().scratch || OnlyAsks(message.host, message.size, file.protocol));
}

/// Whether these are whole control messages, and none that speaks of files: those would be the tool's own.
bool HoldsMessages(const uint8_t* bytes, uint64_t length) {
  while (length >= sizeof(cmsghdr)) {
    cmsghdr header;
    std::memcpy(&header, bytes, sizeof header);
    if (header.cmsg_len < sizeof header || header.cmsg_len > length) return false;
    if (header.cmsg_level == SOL_SOCKET && header.cmsg_type == SCM_RIGHTS) return false;
    const uint64_t step = std::min<uint64_t>(CMSG_ALIGN(header.cmsg_len), length);
    bytes += step;
    length -= step;
  }
  return true;
}

/// Whether the tool was started with a datagram socket, which a message could lead anywhere.
bool IsConnectionless(Supervisor& supervisor, const ToolCall& call) {
  const int copy = supervisor.CopyFd(call, call.arguments[0]);
  if (copy < 0) return false;
  int type = 0;
  socklen_t size = sizeof type;
  const bool is_socket = getsockopt(copy, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
  close(copy);
  return is_socket && type != SOCK_STREAM && type != SOCK_SEQPACKET;
}

/// The message of a sendmsg or recvmsg: as the tool has it, and room for it in the window.
struct Message {
  msghdr header;
  ToolPieces pieces;
  WindowPiece window_header, name, control, body;
};

/// Lays a header out in the window, as the kernel has it.
bool TakeRoom(Supervisor& supervisor, Message* message) {
  const msghdr& given = message->header;
  message->window_header = supervisor.Take(sizeof(msghdr));
  const WindowPiece vector = supervisor.Take(sizeof(iovec));
  message->name = supervisor.Take(given.msg_name == nullptr ? 0 : std::min<uint64_t>(given.msg_namelen, kMostAddress));
  message->control =
      supervisor.Take(given.msg_control == nullptr ? 0 : std::min<uint64_t>(given.msg_controllen, kMostControl));
  message->body = supervisor.Take(message->pieces.size(Supervisor::kMostTransfer));
  for (const WindowPiece& piece : {message->window_header, vector, message->name, message->control, message->body}) {
    if (piece.host == nullptr) return false;
  }
  msghdr header = {};
  header.msg_name = message->name.size == 0 ? nullptr : reinterpret_cast<void*>(message->name.guest);
  header.msg_namelen = static_cast<socklen_t>(message->name.size);
  header.msg_iov = reinterpret_cast<iovec*>(vector.guest);
  header.msg_iovlen = 1;
  header.msg_control = message->control.size == 0 ? nullptr : reinterpret_cast<void*>(message->control.guest);
  header.msg_controllen = message->control.size;
  std::memcpy(message->window_header.host, &header, sizeof header);
  const iovec body = {reinterpret_cast<void*>(message->body.guest), message->body.size};
  std::memcpy(vector.host, &body, sizeof body);
  return true;
}

/// 0 or an errno.
int ReadMessage(Supervisor& supervisor, const ToolCall& call, Message* message) {
  const ToolMemory& memory = call.process->memory;
  if (!memory.ReadValue(call.arguments[1], &message->header)) return EFAULT;
  const uint64_t vector = reinterpret_cast<uint64_t>(message->header.msg_iov);
  if (const int error = message->pieces.Read(memory, vector, message->header.msg_iovlen)) return error;
  return TakeRoom(supervisor, message) ? 0 : ENOMEM;
}

}  // namespace

Answer HandleSocket(Supervisor& supervisor, ToolCall& call) {
  const int family = static_cast<int>(call.arguments[0]);
  const uint64_t type = call.arguments[1];
  const int protocol = static_cast<int>(call.arguments[2]);
  // The audit system answers to one process, and takes note of what asks it.
  if (family == AF_NETLINK && protocol == NETLINK_AUDIT) return Answer::Error(EPROTONOSUPPORT);
  const int64_t fd = supervisor.Ask(SYS_socket, call.arguments[0], type, call.arguments[2]);
  GuestFile details = {};
  details.family = family == 0 ? -1 : family;
  details.protocol = protocol;
  details.writable = (type & kTypeMask) == SOCK_DGRAM;
  return supervisor.GiveGuestFile(call, fd, (type & SOCK_CLOEXEC) != 0, details);
}

/// A pair of datagram sockets could be led to anybody's name, by a message that nobody has looked at.
Answer HandleSocketPair(Supervisor& supervisor, ToolCall& call) {
  const uint64_t type = call.arguments[1] & kTypeMask;
  if (type == SOCK_STREAM || type == SOCK_SEQPACKET) return Answer::Continue();
  return supervisor.Refuse(call, "datagrams could leave the tool");
}

/// connect and bind
Answer HandleConnect(Supervisor& supervisor, ToolCall& call) {
  const SocketCall socket = SocketOf(supervisor, call);
  if (socket.number == ToolProcess::kLocal) return supervisor.Refuse(call, "nobody on the host is talked to");
  if (socket.file == nullptr) return Answer::Error(EBADF);
  const bool connects = call.number == SYS_connect;
  // Who would accept does not run: name services and the like are not there.
  if (socket.file->family == AF_UNIX && connects) return Answer::Error(ECONNREFUSED);
  // A datagram socket that connects asks for a route and sends nothing.
  const bool asks_route = connects && socket.file->writable && socket.file->family != AF_UNIX;
  if (socket.file->family != AF_NETLINK && !asks_route) {
    return supervisor.Refuse(call, "no connections are made for the guest");
  }
  return supervisor.AskByRule(call);
}

/// sendto
Answer HandleSend(Supervisor& supervisor, ToolCall& call) {
  const SocketCall socket = SocketOf(supervisor, call);
  if (socket.number == ToolProcess::kLocal) {
    return call.arguments[4] == 0 ? Answer::Continue() : supervisor.Refuse(call, "nobody on the host is talked to");
  }
  if (socket.file == nullptr) return Answer::Error(EBADF);
  if (call.arguments[2] > Supervisor::kMostTransfer) return Answer::Error(EMSGSIZE);
  const WindowPiece message = supervisor.Take(call.arguments[2]);
  const WindowPiece address = supervisor.Take(call.arguments[4] == 0 ? 0 : std::min(call.arguments[5], kMostAddress));
  if (message.host == nullptr || address.host == nullptr) return Answer::Error(ENOMEM);
  const ToolMemory& memory = call.process->memory;
  if (!memory.Read(call.arguments[1], message.host, message.size) ||
      !memory.Read(call.arguments[4], address.host, address.size)) {
    return Answer::Error(EFAULT);
  }
  if (!MaySend(supervisor, *socket.file, message)) return supervisor.Refuse(call, "it does more than ask");
  return Answer::Value(supervisor.Ask(SYS_sendto, static_cast<uint64_t>(socket.number), message.guest, message.size,
                                      call.arguments[3] | MSG_DONTWAIT, address.size == 0 ? 0 : address.guest,
                                      address.size));
}

/// recvfrom
Answer HandleReceive(Supervisor& supervisor, ToolCall& call) {
  call.arguments[3] |= MSG_DONTWAIT;
  if (SocketOf(supervisor, call).number == ToolProcess::kLocal) return Answer::Continue();
  return supervisor.AskByRule(call);
}

Answer HandleSendMessage(Supervisor& supervisor, ToolCall& call) {
  const SocketCall socket = SocketOf(supervisor, call);
  if (socket.number == ToolProcess::kLocal) {
    return IsConnectionless(supervisor, call) ? supervisor.Refuse(call, "datagrams could leave the tool")
                                              : Answer::Continue();
  }
  if (socket.file == nullptr) return Answer::Error(EBADF);
  Message message;
  if (const int error = ReadMessage(supervisor, call, &message)) return Answer::Error(error);
  const ToolMemory& memory = call.process->memory;
  const msghdr& header = message.header;
  if (!message.pieces.Gather(memory, message.body.host, message.body.size) ||
      !memory.Read(reinterpret_cast<uint64_t>(header.msg_name), message.name.host, message.name.size) ||
      !memory.Read(reinterpret_cast<uint64_t>(header.msg_control), message.control.host, message.control.size)) {
    return Answer::Error(EFAULT);
  }
  if (message.control.size != 0 || !MaySend(supervisor, *socket.file, message.body)) {
    return supervisor.Refuse(call, "it does more than ask");
  }
  return Answer::Value(supervisor.Ask(SYS_sendmsg, static_cast<uint64_t>(socket.number), message.window_header.guest,
                                      call.arguments[2] | MSG_DONTWAIT));
}

Answer HandleReceiveMessage(Supervisor& supervisor, ToolCall& call) {
  const SocketCall socket = SocketOf(supervisor, call);
  if (socket.file == nullptr) return socket.number == ToolProcess::kLocal ? Answer::Continue() : Answer::Error(EBADF);
  Message message;
  if (const int error = ReadMessage(supervisor, call, &message)) return Answer::Error(error);
  const int64_t got = supervisor.Ask(SYS_recvmsg, static_cast<uint64_t>(socket.number), message.window_header.guest,
                                     call.arguments[2] | MSG_DONTWAIT);
  if (got < 0) return Answer::Value(got);
  msghdr received;
  std::memcpy(&received, message.window_header.host, sizeof received);
  const uint64_t control = std::min<uint64_t>(received.msg_controllen, message.control.size);
  if (got > INT32_MAX || received.msg_namelen > kMostAddress || !HoldsMessages(message.control.host, control)) {
    supervisor.Say("recvmsg: the guest's answer contradicts itself");
    return Answer::Error(EIO);
  }
  // With MSG_TRUNC the value is the message's length, which may be more than there was room for.
  const uint64_t length = std::min<uint64_t>(static_cast<uint64_t>(got), message.body.size);
  const uint64_t name = std::min<uint64_t>(received.msg_namelen, message.name.size);
  const ToolMemory& memory = call.process->memory;
  msghdr& header = message.header;
  if (!message.pieces.Scatter(memory, message.body.host, length) ||
      !memory.Write(reinterpret_cast<uint64_t>(header.msg_name), message.name.host, name) ||
      !memory.Write(reinterpret_cast<uint64_t>(header.msg_control), message.control.host, control)) {
    return Answer::Error(EFAULT);
  }
  header.msg_namelen = received.msg_namelen;
  header.msg_controllen = control;
  header.msg_flags = received.msg_flags;
  return memory.Write(call.arguments[1], &header, sizeof header) ? Answer::Value(got) : Answer::Error(EFAULT);
}

}  // namespace penumbra
