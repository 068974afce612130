// Sockets of the guest: for asking its kernel, never for talking to anybody.
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/syscall.h>

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

/// A message header as the kernel has it, in the window.
struct MessageRoom {
  WindowPiece header, vector, name, control, body;
};

bool TakeRoom(Supervisor& supervisor, const msghdr& message, uint64_t body, MessageRoom* room) {
  room->header = supervisor.Take(sizeof(msghdr));
  room->vector = supervisor.Take(sizeof(iovec));
  room->name = supervisor.Take(message.msg_name == nullptr ? 0 : std::min<uint64_t>(message.msg_namelen, kMostAddress));
  room->control =
      supervisor.Take(message.msg_control == nullptr ? 0 : std::min<uint64_t>(message.msg_controllen, kMostControl));
  room->body = supervisor.Take(body);
  if (room->body.host == nullptr) return false;
  msghdr header = {};
  header.msg_name = room->name.size == 0 ? nullptr : reinterpret_cast<void*>(room->name.guest);
  header.msg_namelen = static_cast<socklen_t>(room->name.size);
  header.msg_iov = reinterpret_cast<iovec*>(room->vector.guest);
  header.msg_iovlen = 1;
  header.msg_control = room->control.size == 0 ? nullptr : reinterpret_cast<void*>(room->control.guest);
  header.msg_controllen = room->control.size;
  std::memcpy(room->header.host, &header, sizeof header);
  const iovec vector = {reinterpret_cast<void*>(room->body.guest), room->body.size};
  std::memcpy(room->vector.host, &vector, sizeof vector);
  return true;
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

/// connect and bind
Answer HandleConnect(Supervisor& supervisor, ToolCall& call) {
  const SocketCall socket = SocketOf(supervisor, call);
  if (socket.file == nullptr) return socket.number == ToolProcess::kLocal ? Answer::Continue() : Answer::Error(EBADF);
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
  if (socket.file == nullptr) return socket.number == ToolProcess::kLocal ? Answer::Continue() : Answer::Error(EBADF);
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
    // Files may be passed on.
    supervisor.files().NoteSharing();
    return Answer::Continue();
  }
  if (socket.file == nullptr) return Answer::Error(EBADF);
  const ToolMemory& memory = call.process->memory;
  msghdr message;
  if (!memory.ReadValue(call.arguments[1], &message)) return Answer::Error(EFAULT);
  ToolPieces pieces;
  if (const int error = pieces.Read(memory, reinterpret_cast<uint64_t>(message.msg_iov), message.msg_iovlen)) {
    return Answer::Error(error);
  }
  MessageRoom room;
  if (!TakeRoom(supervisor, message, pieces.size(Supervisor::kMostTransfer), &room)) return Answer::Error(ENOMEM);
  if (!pieces.Gather(memory, room.body.host, room.body.size) ||
      !memory.Read(reinterpret_cast<uint64_t>(message.msg_name), room.name.host, room.name.size) ||
      !memory.Read(reinterpret_cast<uint64_t>(message.msg_control), room.control.host, room.control.size)) {
    return Answer::Error(EFAULT);
  }
  if (room.control.size != 0 || !MaySend(supervisor, *socket.file, room.body)) {
    return supervisor.Refuse(call, "it does more than ask");
  }
  return Answer::Value(supervisor.Ask(SYS_sendmsg, static_cast<uint64_t>(socket.number), room.header.guest,
                                      call.arguments[2] | MSG_DONTWAIT));
}

Answer HandleReceiveMessage(Supervisor& supervisor, ToolCall& call) {
  const SocketCall socket = SocketOf(supervisor, call);
  if (socket.file == nullptr) return socket.number == ToolProcess::kLocal ? Answer::Continue() : Answer::Error(EBADF);
  const ToolMemory& memory = call.process->memory;
  msghdr message;
  if (!memory.ReadValue(call.arguments[1], &message)) return Answer::Error(EFAULT);
  ToolPieces pieces;
  if (const int error = pieces.Read(memory, reinterpret_cast<uint64_t>(message.msg_iov), message.msg_iovlen)) {
    return Answer::Error(error);
  }
  MessageRoom room;
  if (!TakeRoom(supervisor, message, pieces.size(Supervisor::kMostTransfer), &room)) return Answer::Error(ENOMEM);
  const int64_t got = supervisor.Ask(SYS_recvmsg, static_cast<uint64_t>(socket.number), room.header.guest,
                                     call.arguments[2] | MSG_DONTWAIT);
  if (got < 0) return Answer::Value(got);
  msghdr received;
  std::memcpy(&received, room.header.host, sizeof received);
  // With MSG_TRUNC the value is the message's length, which may be more than there was room for.
  const uint64_t length = std::min<uint64_t>(static_cast<uint64_t>(got), room.body.size);
  const uint64_t control = std::min<uint64_t>(received.msg_controllen, room.control.size);
  const uint64_t name = std::min<uint64_t>(received.msg_namelen, room.name.size);
  if (!pieces.Scatter(memory, room.body.host, length) ||
      !memory.Write(reinterpret_cast<uint64_t>(message.msg_name), room.name.host, name) ||
      !memory.Write(reinterpret_cast<uint64_t>(message.msg_control), room.control.host, control)) {
    return Answer::Error(EFAULT);
  }
  message.msg_namelen = received.msg_namelen;
  message.msg_controllen = control;
  message.msg_flags = received.msg_flags;
  return memory.Write(call.arguments[1], &message, sizeof message) ? Answer::Value(got) : Answer::Error(EFAULT);
}

}  // namespace penumbra
