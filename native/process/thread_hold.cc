#include "process/thread_hold.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include <string>

#include "error.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kReleaseLimit{5};
// A thread that has a processor stops within microseconds, one that has to wait for ours when we sleep, and one that
// the kernel has wait for a disk some time later.
constexpr std::chrono::microseconds kSpin{20};
constexpr std::chrono::milliseconds kShortPauses{5};
constexpr timespec kShortPause{0, 10'000};
constexpr timespec kLongPause{0, 500'000};
constexpr unsigned long kTimerSlackNs = 1000;

// By default every sleep of a thread takes 50 us more than it should.
void SleepExactly() {
  static thread_local const int done = prctl(PR_SET_TIMERSLACK, kTimerSlackNs, 0, 0, 0);
  static_cast<void>(done);
}

// The event of PTRACE_INTERRUPT and of a group stop, in a wait(2) status (ptrace(2), "PTRACE_EVENT stops").
int EventOf(int status) { return status >> 16; }

}  // namespace

ThreadHold::ThreadHold(const std::vector<pid_t>& threads) {
  for (const pid_t id : threads) threads_.push_back({id, State::kFree, 0});
}

ThreadHold::~ThreadHold() { Release(); }

void ThreadHold::Begin() {
  Release();
  try {
    for (Thread& thread : threads_) Order(thread);
  } catch (const Error&) {
    Release();
    throw;
  }
}

void ThreadHold::Order(Thread& thread) {
  if (thread.state != State::kFree) throw Error("TIMEOUT", "a thread of the hypervisor does not stop");
  // Not PTRACE_ATTACH: it would send a signal.
  if (ptrace(PTRACE_SEIZE, thread.id, nullptr, nullptr) != 0) {
    if (errno == ESRCH) throw Error("GUEST_GONE", "a thread of the hypervisor ended");
    throw SystemError("PERMISSION", "thread " + std::to_string(thread.id) + " of the hypervisor may not be traced");
  }
  thread.state = State::kOrdered;
  thread.signal = 0;
  ptrace(PTRACE_INTERRUPT, thread.id, nullptr, nullptr);  // fails only where the thread ended, which Await sees
}

void ThreadHold::Await(TimePoint deadline) {
  SleepExactly();
  for (Thread& thread : threads_) {
    if (!AwaitOne(thread, deadline)) throw Error("TIMEOUT", "a thread of the hypervisor does not stop");
    if (thread.state == State::kFree) throw Error("GUEST_GONE", "a thread of the hypervisor ended");
  }
}

// False when it still runs at the deadline. Looks again and again for want of a wait(2) with a time limit. Giving way
// (sched_yield) would not do: a thread that has slept a lot is let run before others all the same.
bool ThreadHold::AwaitOne(Thread& thread, TimePoint deadline) {
  const TimePoint begin = Clock::now();
  while (thread.state == State::kOrdered && !Look(thread)) {
    const TimePoint now = Clock::now();
    if (now >= deadline) return false;
    if (now >= begin + kSpin) nanosleep(now < begin + kShortPauses ? &kShortPause : &kLongPause, nullptr);
  }
  return true;
}

// True when it has stopped or ended.
bool ThreadHold::Look(Thread& thread) {
  int status = 0;
  const pid_t found = waitpid(thread.id, &status, WNOHANG | __WALL);
  if (found == 0 || (found < 0 && errno == EINTR)) return false;
  if (found < 0 || !WIFSTOPPED(status)) {
    thread.state = State::kFree;
    return true;
  }
  thread.state = State::kStopped;
  thread.signal = EventOf(status) == 0 ? WSTOPSIG(status) : 0;
  return true;
}

void ThreadHold::Release() noexcept {
  const TimePoint limit = Clock::now() + kReleaseLimit;
  for (Thread& thread : threads_) {
    // A thread that was ordered to stop can be let go only once it did.
    if (!AwaitOne(thread, limit) || thread.state != State::kStopped) continue;
    ptrace(PTRACE_DETACH, thread.id, nullptr, thread.signal);
    thread.state = State::kFree;
  }
}

}  // namespace penumbra
