#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "redirect/handlers.h"

namespace penumbra {

namespace {

// linux/fcntl.h, which does not go together with fcntl.h.
constexpr int kSetOwnEx = 15, kOfdGetLock = 36, kOfdSetLock = 37, kOfdSetLockWait = 38;

/// F_GETLK: nothing keeps the lock from being taken.
Answer SayUnlocked(const ToolCall& call) {
  struct flock lock;
  if (!call.process->memory.ReadValue(call.arguments[2], &lock)) return Answer::Error(EFAULT);
  lock.l_type = F_UNLCK;
  return call.process->memory.Write(call.arguments[2], &lock, sizeof lock) ? Answer::Value(0) : Answer::Error(EFAULT);
}

}  // namespace

Answer HandleControlFile(Supervisor& supervisor, ToolCall& call) {
  const int command = static_cast<int>(call.arguments[1]);
  const int file = supervisor.FileOf(call, call.arguments[0]);
  switch (command) {
    // Signals to whomever the tool names.
    case F_SETOWN:
    case kSetOwnEx:
    case F_SETSIG:
    case F_SETLEASE:
    case F_NOTIFY:
      return supervisor.Refuse(call);
    case F_SETFL:
      if ((call.arguments[2] & O_ASYNC) != 0) return supervisor.Refuse(call);
      if (file == ToolProcess::kLocal) return Answer::Continue();
      // The guest's files never block: HandleOpenAt.
      return Answer::Value(
          supervisor.Ask(SYS_fcntl, static_cast<uint64_t>(file), F_SETFL, call.arguments[2] | O_NONBLOCK));
    case F_GETFL: {
      if (file == ToolProcess::kLocal) return Answer::Continue();
      return Answer::Value(supervisor.Ask(SYS_fcntl, static_cast<uint64_t>(file), F_GETFL) & ~int64_t{O_NONBLOCK});
    }
    case F_GETLK:
    case kOfdGetLock:
      return file == ToolProcess::kLocal ? Answer::Continue() : SayUnlocked(call);
    case F_SETLK:
    case F_SETLKW:
    case kOfdSetLock:
    case kOfdSetLockWait:
      // Locks against others mean nothing where nobody else runs.
      return file == ToolProcess::kLocal ? Answer::Continue() : Answer::Value(0);
    default:
      if (file == ToolProcess::kLocal) return Answer::Continue();
      return Answer::Value(supervisor.Ask(SYS_fcntl, static_cast<uint64_t>(file), call.arguments[1], 0));
  }
}

namespace {

/// SIOCGIFCONF: the list's length and address, and the list.
Answer ListInterfaces(Supervisor& supervisor, ToolCall& call, int file) {
  constexpr int kMostBytes = 64 << 10;
  ifconf request;
  if (!call.process->memory.ReadValue(call.arguments[2], &request)) return Answer::Error(EFAULT);
  const uint64_t list = reinterpret_cast<uint64_t>(request.ifc_buf);
  const int room = request.ifc_len;
  if (room < 0) return Answer::Error(EINVAL);
  const WindowPiece header = supervisor.Take(sizeof request);
  const WindowPiece body = supervisor.Take(static_cast<uint64_t>(room < kMostBytes ? room : kMostBytes));
  if (header.host == nullptr || body.host == nullptr) return Answer::Error(ENOMEM);
  request.ifc_len = static_cast<int>(body.size);
  request.ifc_buf = list == 0 ? nullptr : reinterpret_cast<char*>(body.guest);
  std::memcpy(header.host, &request, sizeof request);
  const int64_t value = supervisor.Ask(SYS_ioctl, static_cast<uint64_t>(file), SIOCGIFCONF, header.guest);
  if (value < 0) return Answer::Value(value);
  std::memcpy(&request, header.host, sizeof request);
  if (request.ifc_len < 0 || (list != 0 && static_cast<uint64_t>(request.ifc_len) > body.size))
    return Answer::Error(EIO);
  request.ifc_buf = reinterpret_cast<char*>(list);
  if (list != 0 && !call.process->memory.Write(list, body.host, static_cast<size_t>(request.ifc_len))) {
    return Answer::Error(EFAULT);
  }
  return call.process->memory.Write(call.arguments[2], &request, sizeof request) ? Answer::Value(value)
                                                                                 : Answer::Error(EFAULT);
}

struct Command {
  uint32_t number;
  uint32_t bytes;  ///< of what its argument points to
};

/// Questions whose number does not tell the size of their argument: tty_ioctl(2), netdevice(7), linux/fs.h, linux/vt.h.
constexpr Command kQuestions[] = {
    {TCGETS, 36},          {TIOCGWINSZ, 8},     {TIOCGPGRP, 4},    {TIOCGSID, 4},        {FIONREAD, 4},
    {SIOCGIFNAME, 40},     {SIOCGIFFLAGS, 40},  {SIOCGIFADDR, 40}, {SIOCGIFDSTADDR, 40}, {SIOCGIFBRDADDR, 40},
    {SIOCGIFNETMASK, 40},  {SIOCGIFMETRIC, 40}, {SIOCGIFMTU, 40},  {SIOCGIFHWADDR, 40},  {SIOCGIFINDEX, 40},
    {SIOCGIFTXQLEN, 40},   {SIOCGIFMAP, 40},    {SIOCGSTAMP, 16},  {0x1260, 8},          {0x1268, 4},
    {NS_GET_OWNER_UID, 4}, {0x125e, 4},         {0x1263, 8},       {0x301, 8},           {0x4b33, 1},
    {0x5603, 6},
};
constexpr uint32_t kMostArgument = 4096;

/// A command to one of the tool's own files. It is let pass when it does nothing but to that file and to what the tool
/// alone has of it: a socket's can be about the host's interfaces, a file's about its file system. By the command
/// alone, since another thread may put another file in its place.
Answer ControlLocal(Supervisor& supervisor, const ToolCall& call) {
  constexpr uint32_t kHarmless[] = {FIOCLEX, FIONCLEX, FIONBIO, FIONREAD, TIOCOUTQ};
  // Signals to whomever the tool names; characters put into the terminal's input, which would be read by whoever comes
  // after the tool; a terminal that is another thing afterwards.
  constexpr uint32_t kActing[] = {FIOSETOWN, SIOCSPGRP, FIOASYNC, TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD, TIOCVHANGUP};
  // The numbers of processes that a tool knows are not those of its terminal: shells turn job control off.
  constexpr uint32_t kOfGroups[] = {TIOCGPGRP, TIOCSPGRP, TIOCGSID};
  const uint32_t command = static_cast<uint32_t>(call.arguments[1]);
  const auto is_one_of = [command](const auto& list) {
    return std::find(std::begin(list), std::end(list), command) != std::end(list);
  };
  if (is_one_of(kHarmless)) return Answer::Continue();
  if (is_one_of(kActing)) return supervisor.Refuse(call);
  const bool passes = !is_one_of(kOfGroups) && (command >> 8 == 'T' || _IOC_DIR(command) == _IOC_READ);
  return passes ? Answer::Continue() : Answer::Error(ENOTTY);
}

}  // namespace

/// Only what asks: the commands named, and those that say of themselves that they only read (asm-generic/ioctl.h).
Answer HandleControlDevice(Supervisor& supervisor, ToolCall& call) {
  const int file = supervisor.FileOf(call, call.arguments[0]);
  const uint32_t command = static_cast<uint32_t>(call.arguments[1]);
  if (file == ToolProcess::kLocal) return ControlLocal(supervisor, call);
  if (command == FIOCLEX || command == FIONCLEX) return Answer::Continue();
  if (command == FIONBIO) return Answer::Value(0);
  if (command == NS_GET_USERNS || command == NS_GET_PARENT) {
    return supervisor.GiveGuestFile(call, supervisor.Ask(SYS_ioctl, static_cast<uint64_t>(file), command), true);
  }
  if (command == NS_GET_NSTYPE) return Answer::Value(supervisor.Ask(SYS_ioctl, static_cast<uint64_t>(file), command));
  if (command == SIOCGIFCONF) return ListInterfaces(supervisor, call, file);
  uint32_t bytes = 0;
  for (const Command& question : kQuestions) {
    if (question.number == command) bytes = question.bytes;
  }
  if (bytes == 0 && _IOC_DIR(command) == _IOC_READ) bytes = _IOC_SIZE(command);
  if (bytes == 0 || bytes > kMostArgument) return Answer::Error(ENOTTY);
  const WindowPiece argument = supervisor.Take(bytes);
  if (argument.host == nullptr) return Answer::Error(ENOMEM);
  if (!call.process->memory.Read(call.arguments[2], argument.host, bytes)) return Answer::Error(EFAULT);
  const int64_t value = supervisor.Ask(SYS_ioctl, static_cast<uint64_t>(file), command, argument.guest);
  if (value < 0) return Answer::Value(value);
  return call.process->memory.Write(call.arguments[2], argument.host, bytes) ? Answer::Value(value)
                                                                             : Answer::Error(EFAULT);
}

}  // namespace penumbra
