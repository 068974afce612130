// Waiting and the time. In a shadow nothing happens by itself: what is not there at once never comes, and the clock
// stands. A tool that sleeps finds its clocks advanced by so much.
#include <poll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "redirect/handlers.h"

namespace penumbra {

namespace {

constexpr int64_t kSecond = 1'000'000'000;
/// Later than any clock that shows the years since 1970 will be for long: sleeps may end at a time of the clock.
constexpr int64_t kLongestSleep = int64_t{1} << 62;
constexpr int64_t kLastSecond = 9'223'372'036;  // KTIME_SEC_MAX, include/linux/ktime.h
constexpr uint64_t kMostPolled = 4096;

int64_t Nanoseconds(const timespec& time) {
  if (time.tv_sec < 0 || time.tv_sec > kLongestSleep / kSecond) return time.tv_sec < 0 ? 0 : kLongestSleep;
  return time.tv_sec * kSecond + std::clamp<int64_t>(time.tv_nsec, 0, kSecond - 1);
}

/// Whether a kernel's clock could show this (timespec64_valid_strict, include/linux/time64.h).
bool IsTime(int64_t seconds, int64_t fraction, int64_t whole) {
  return seconds >= 0 && seconds <= kLastSecond && fraction >= 0 && fraction < whole;
}

/// What a clock of the guest shows. Returns 0, or a negative error number.
int64_t AskClock(Supervisor& supervisor, uint64_t clock, timespec* time) {
  const WindowPiece piece = supervisor.Take(sizeof *time);
  if (piece.host == nullptr) return -ENOMEM;
  const int64_t value = supervisor.Ask(SYS_clock_gettime, clock, piece.guest);
  if (value < 0) return value;
  std::memcpy(time, piece.host, sizeof *time);
  return IsTime(time->tv_sec, time->tv_nsec, kSecond) ? 0 : -EIO;
}

/// What the guest says of its files, and the host of the others, at once. `polled` has the tool's numbers.
int64_t PollNow(Supervisor& supervisor, ToolCall& call, std::vector<pollfd>* polled) {
  std::vector<pollfd> guest = *polled, host = *polled;
  bool any_guest = false;
  for (size_t i = 0; i < polled->size(); ++i) {
    const int fd = (*polled)[i].fd;
    const int file = fd < 0 ? ToolProcess::kLocal : supervisor.FileOf(call, static_cast<uint64_t>(fd));
    guest[i].fd = file == ToolProcess::kLocal ? -1 : file;
    host[i].fd = file != ToolProcess::kLocal || fd < 0 ? -1 : supervisor.CopyFd(call, static_cast<uint64_t>(fd));
    any_guest |= file != ToolProcess::kLocal;
  }
  if (any_guest) {
    const WindowPiece piece = supervisor.Take(guest.size() * sizeof(pollfd));
    if (piece.host != nullptr) {
      std::memcpy(piece.host, guest.data(), piece.size);
      if (supervisor.Ask(SYS_poll, piece.guest, guest.size(), 0) > 0) {
        std::memcpy(guest.data(), piece.host, piece.size);
      }
    }
  }
  poll(host.data(), host.size(), 0);
  int64_t ready = 0;
  for (size_t i = 0; i < polled->size(); ++i) {
    pollfd& entry = (*polled)[i];
    const int16_t closed = host[i].fd == -EBADF ? POLLNVAL : 0;
    const int16_t events = guest[i].fd >= 0 ? guest[i].revents : host[i].fd >= 0 ? host[i].revents : closed;
    entry.revents = entry.fd < 0 ? 0 : events & (entry.events | POLLERR | POLLHUP | POLLNVAL);
    ready += entry.revents != 0;
    if (host[i].fd >= 0) close(host[i].fd);
  }
  return ready;
}

bool HasGuestFile(Supervisor& supervisor, ToolCall& call, const std::vector<pollfd>& polled) {
  return std::any_of(polled.begin(), polled.end(), [&](const pollfd& entry) {
    return entry.fd >= 0 && supervisor.FileOf(call, static_cast<uint64_t>(entry.fd)) != ToolProcess::kLocal;
  });
}

/// Nanoseconds; -1 is for ever. False when it cannot be read.
bool ReadTimeout(const ToolCall& call, uint64_t address, bool has_microseconds, int64_t* timeout) {
  timespec time;
  *timeout = -1;
  if (address == 0) return true;
  if (!call.process->memory.ReadValue(address, &time)) return false;
  if (has_microseconds) time.tv_nsec *= 1000;
  *timeout = Nanoseconds(time);
  return true;
}

/// The wait is over at once: for what is not ready now, time passes.
int64_t EndOfWait(Supervisor& supervisor, int64_t ready, int64_t timeout) {
  if (ready == 0 && timeout != 0) supervisor.PassTime(timeout < 0 ? kSecond : timeout);
  return ready;
}

}  // namespace

/// poll and ppoll
Answer HandlePoll(Supervisor& supervisor, ToolCall& call) {
  if (call.arguments[1] > kMostPolled) return Answer::Error(EINVAL);
  std::vector<pollfd> polled(call.arguments[1]);
  const uint64_t bytes = polled.size() * sizeof(pollfd);
  if (!call.process->memory.Read(call.arguments[0], polled.data(), bytes)) return Answer::Error(EFAULT);
  int64_t timeout = static_cast<int32_t>(call.arguments[2]);
  if (call.number == SYS_ppoll) {
    if (!ReadTimeout(call, call.arguments[2], false, &timeout)) return Answer::Error(EFAULT);
  } else if (timeout > 0) {
    timeout *= kSecond / 1000;
  }
  if (!HasGuestFile(supervisor, call, polled)) {
    if (!polled.empty()) return Answer::Continue();
    return Answer::Value(EndOfWait(supervisor, 0, timeout));
  }
  const int64_t ready = PollNow(supervisor, call, &polled);
  if (!call.process->memory.Write(call.arguments[0], polled.data(), bytes)) return Answer::Error(EFAULT);
  return Answer::Value(EndOfWait(supervisor, ready, timeout));
}

/// select and pselect6
Answer HandleSelect(Supervisor& supervisor, ToolCall& call) {
  constexpr int16_t kEvents[3] = {POLLIN | POLLHUP | POLLERR, POLLOUT | POLLERR, POLLPRI};
  const uint64_t count = std::min<uint64_t>(call.arguments[0], FD_SETSIZE);
  const uint64_t bytes = (count + 63) / 64 * 8;
  fd_set sets[3] = {};
  for (int i = 0; i < 3; ++i) {
    if (call.arguments[1 + i] != 0 && !call.process->memory.Read(call.arguments[1 + i], &sets[i], bytes)) {
      return Answer::Error(EFAULT);
    }
  }
  std::vector<pollfd> polled;
  for (int fd = 0; fd < static_cast<int>(count); ++fd) {
    int16_t events = 0;
    for (int i = 0; i < 3; ++i) {
      if (FD_ISSET(fd, &sets[i])) events |= kEvents[i];
    }
    if (events != 0) polled.push_back({fd, events, 0});
  }
  int64_t timeout;
  if (!ReadTimeout(call, call.arguments[4], call.number == SYS_select, &timeout)) return Answer::Error(EFAULT);
  if (!HasGuestFile(supervisor, call, polled)) {
    if (!polled.empty()) return Answer::Continue();
    return Answer::Value(EndOfWait(supervisor, 0, timeout));
  }
  PollNow(supervisor, call, &polled);
  fd_set answers[3] = {};
  int64_t ready = 0;
  for (const pollfd& entry : polled) {
    for (int i = 0; i < 3; ++i) {
      if (!FD_ISSET(entry.fd, &sets[i]) || (entry.revents & kEvents[i]) == 0) continue;
      FD_SET(entry.fd, &answers[i]);
      ++ready;
    }
  }
  for (int i = 0; i < 3; ++i) {
    if (call.arguments[1 + i] != 0 && !call.process->memory.Write(call.arguments[1 + i], &answers[i], bytes)) {
      return Answer::Error(EFAULT);
    }
  }
  return Answer::Value(EndOfWait(supervisor, ready, timeout));
}

/// nanosleep and clock_nanosleep, relative and absolute
Answer HandleSleep(Supervisor& supervisor, ToolCall& call) {
  const bool has_clock = call.number == SYS_clock_nanosleep;
  timespec wanted;
  if (!call.process->memory.ReadValue(call.arguments[has_clock ? 2 : 0], &wanted)) return Answer::Error(EFAULT);
  if (wanted.tv_sec < 0 || wanted.tv_nsec < 0 || wanted.tv_nsec >= kSecond) return Answer::Error(EINVAL);
  int64_t duration = Nanoseconds(wanted);
  if (has_clock && (call.arguments[1] & TIMER_ABSTIME) != 0) {
    timespec now;
    if (const int64_t error = AskClock(supervisor, call.arguments[0], &now); error < 0) return Answer::Value(error);
    duration -= std::min(Nanoseconds(now), kLongestSleep) + supervisor.slept;
  }
  supervisor.PassTime(duration);
  return Answer::Value(0);
}

/// clock_gettime
Answer HandleClock(Supervisor& supervisor, ToolCall& call) {
  supervisor.NoteIdle();
  const int clock = static_cast<int>(call.arguments[0]);
  // What the tool's own processes have used is known to the host.
  if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID || clock < 0) return Answer::Continue();
  timespec time;
  if (const int64_t error = AskClock(supervisor, call.arguments[0], &time); error < 0) return Answer::Value(error);
  const int64_t nanoseconds = time.tv_nsec + supervisor.slept;
  time.tv_sec += nanoseconds / kSecond;
  time.tv_nsec = nanoseconds % kSecond;
  return call.process->memory.Write(call.arguments[1], &time, sizeof time) ? Answer::Value(0) : Answer::Error(EFAULT);
}

/// time and gettimeofday
Answer HandleTime(Supervisor& supervisor, ToolCall& call) {
  supervisor.NoteIdle();
  const WindowPiece piece = supervisor.Take(sizeof(timeval));
  const WindowPiece zone = supervisor.Take(sizeof(struct timezone));
  if (piece.host == nullptr || zone.host == nullptr) return Answer::Error(ENOMEM);
  const int64_t value = supervisor.Ask(SYS_gettimeofday, piece.guest, zone.guest);
  if (value < 0) return Answer::Value(value);
  timeval time;
  std::memcpy(&time, piece.host, sizeof time);
  constexpr int64_t kMicroseconds = 1'000'000;
  if (!IsTime(time.tv_sec, time.tv_usec, kMicroseconds)) return Answer::Error(EIO);
  const int64_t microseconds = time.tv_usec + supervisor.slept / 1000;
  time.tv_sec += microseconds / kMicroseconds;
  time.tv_usec = microseconds % kMicroseconds;
  const ToolMemory& memory = call.process->memory;
  if (call.number == SYS_time) {
    if (call.arguments[0] != 0 && !memory.Write(call.arguments[0], &time.tv_sec, 8)) return Answer::Error(EFAULT);
    return Answer::Value(time.tv_sec);
  }
  if (call.arguments[0] != 0 && !memory.Write(call.arguments[0], &time, sizeof time)) return Answer::Error(EFAULT);
  if (call.arguments[1] != 0 && !memory.Write(call.arguments[1], zone.host, zone.size)) return Answer::Error(EFAULT);
  return Answer::Value(0);
}

}  // namespace penumbra
