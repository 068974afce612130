#include "process/bell.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "error.h"
#include "process/thread_kick.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

// A kick that comes before the call begins is lost.
constexpr std::chrono::milliseconds kRepeat(1);
constexpr std::chrono::hours kLongestPoll(1);

}  // namespace

Bell::Bell(int fd, TimePoint when) : waiter_(pthread_self()), quit_fd_(eventfd(0, EFD_CLOEXEC)) {
  if (quit_fd_ < 0) throw SystemError("ENGINE", "eventfd");
  try {
    AcceptThreadKick(AfterKick::kReturn);
    thread_ = std::thread([this, fd, when] { Watch(fd, when); });
  } catch (...) {
    close(quit_fd_);
    throw;
  }
}

Bell::~Bell() {
  quit_ = true;
  eventfd_write(quit_fd_, 1);
  thread_.join();
  close(quit_fd_);
}

void Bell::Watch(int fd, TimePoint when) {
  pollfd watched[] = {{fd, POLLIN, 0}, {quit_fd_, POLLIN, 0}};
  for (;;) {
    const Clock::time_point now = Clock::now();
    if (now >= when) break;
    const auto left = std::min<Clock::duration>(when - now, kLongestPoll);
    const int limit = static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
    const int found = poll(watched, 2, limit);
    if (watched[1].revents != 0) return;
    if (found > 0 || (found < 0 && errno != EINTR)) break;
  }
  rung_ = true;
  while (!quit_) {
    Ring();
    std::this_thread::sleep_for(kRepeat);
  }
}

void Bell::Ring() {
  const std::lock_guard lock(mutex_);
  if (waiting_) KickThread(waiter_, AfterKick::kReturn);
}

// The last kick has been sent when the lock is free. It may still be on its way: it arrives with the next system call,
// which had better be one that nobody minds.
void Bell::LetPass() {
  { const std::lock_guard lock(mutex_); }
  sched_yield();
}

}  // namespace penumbra
