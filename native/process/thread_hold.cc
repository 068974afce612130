#include "process/thread_hold.h"

#include <sched.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include <string>

#include "error.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kReleaseLimit{5};
// A thread stops within microseconds, unless the kernel has it wait for a disk.
constexpr std::chrono::milliseconds kPatience{2};
constexpr timespec kPause{0, 100'000};

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
  for (Thread& thread : threads_) {
    if (!AwaitOne(thread, deadline)) throw Error("TIMEOUT", "a thread of the hypervisor does not stop");
    if (thread.state == State::kFree) throw Error("GUEST_GONE", "a thread of the hypervisor ended");
  }
}

// False when it still runs at the deadline. Does not block, for want of a wait(2) with a time limit; where there is one
// processor only, it is the thread itself that yielding lets run.
bool ThreadHold::AwaitOne(Thread& thread, TimePoint deadline) {
  const TimePoint patience = Clock::now() + kPatience;
  while (thread.state == State::kOrdered && !Look(thread)) {
    const TimePoint now = Clock::now();
    if (now >= deadline) return false;
    if (now < patience) {
      sched_yield();
    } else {
      nanosleep(&kPause, nullptr);
    }
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
