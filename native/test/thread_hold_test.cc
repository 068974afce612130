// Threads that are held run on with every register as it was, also when their holder is killed in the middle.
#include "process/thread_hold.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <new>
#include <string>
#include <thread>

#include "test/check.h"

namespace penumbra::test {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{20};

// Shared by the processes of a test.
struct Shared {
  std::atomic<pid_t> threads[2];
  std::atomic<uint64_t> progress[2];
  std::atomic<uint64_t> wrong;  ///< that the victim found in its own registers or in what a call gave
  std::atomic<uint64_t> holds;
};

Shared* MapShared() {
  void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return new (memory) Shared{};
}

// One thread counts in a register and compares with memory; the other is always in a system call that restarts.
void Count(Shared* shared) {
  shared->threads[0] = static_cast<pid_t>(syscall(SYS_gettid));
  uint64_t in_register = 0;
  for (;;) {
    __asm__ volatile("addq $1, %0" : "+r"(in_register));
    if (shared->progress[0].fetch_add(1) + 1 != in_register) shared->wrong++;
  }
}

void Wait(Shared* shared) {
  shared->threads[1] = static_cast<pid_t>(syscall(SYS_gettid));
  for (;;) {
    if (poll(nullptr, 0, 1) != 0) shared->wrong++;
    shared->progress[1]++;
  }
}

class Victim {
 public:
  explicit Victim(Shared* shared) : shared_(shared), pid_(fork()) {
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::thread(Count, shared).detach();
      Wait(shared);
    }
    while (shared->threads[0] == 0 || shared->threads[1] == 0) sched_yield();
  }
  ~Victim() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::vector<pid_t> threads() const { return {shared_->threads[0], shared_->threads[1]}; }
  void RequireProgress() const {
    const uint64_t before[] = {shared_->progress[0], shared_->progress[1]};
    const Clock::time_point end = Clock::now() + kPatience;
    while (shared_->progress[0] == before[0] || shared_->progress[1] == before[1]) {
      CHECK(Clock::now() < end);
      sched_yield();
    }
    CHECK_EQUAL(shared_->wrong.load(), 0);
  }
  void RequireNoTracer() const {
    for (const pid_t thread : threads()) {
      std::ifstream status("/proc/" + std::to_string(pid_) + "/task/" + std::to_string(thread) + "/status");
      for (std::string line; std::getline(status, line);) {
        if (line.starts_with("TracerPid:")) CHECK_EQUAL(std::stoi(line.substr(10)), 0);
      }
    }
  }

 private:
  Shared* shared_;
  pid_t pid_;
};

[[noreturn]] void HoldForEver(Shared* shared, const std::vector<pid_t>& threads) {
  ThreadHold hold(threads);
  for (;;) {
    hold.Begin();
    hold.Await(Clock::now() + kPatience);
    hold.Release();
    shared->holds++;
  }
}

TEST("thread_hold: held threads stand still, and run on") {
  Shared* const shared = MapShared();
  const Victim victim(shared);
  ThreadHold hold(victim.threads());
  for (int round = 0; round < 200; round++) {
    hold.Begin();
    hold.Await(Clock::now() + kPatience);
    const uint64_t counted = shared->progress[0];
    const uint64_t waited = shared->progress[1];
    if (round % 20 == 0) usleep(3000);
    CHECK_EQUAL(shared->progress[0].load(), counted);
    CHECK_EQUAL(shared->progress[1].load(), waited);
    hold.Release();
    if (round % 20 == 0) victim.RequireProgress();
  }
  victim.RequireNoTracer();
}

TEST("thread_hold: the holder is killed at any moment") {
  Shared* const shared = MapShared();
  const Victim victim(shared);
  Random random;
  for (uint64_t round = 0; round < 100 * CaseFactor(); round++) {
    const pid_t holder = fork();
    if (holder == 0) HoldForEver(shared, victim.threads());
    usleep(static_cast<useconds_t>(1000 + random.Below(8000)));
    kill(holder, SIGKILL);
    waitpid(holder, nullptr, 0);
    victim.RequireProgress();
    victim.RequireNoTracer();
  }
  CHECK(shared->holds > 20 * CaseFactor());
}

TEST("thread_hold: a signal that came meanwhile is taken afterwards") {
  Shared* const shared = MapShared();
  const Victim victim(shared);
  const pid_t thread = victim.threads()[0];
  ThreadHold hold({thread});
  hold.Begin();
  hold.Await(Clock::now() + kPatience);
  syscall(SYS_tkill, thread, SIGUSR1);  // ends the victim
  CHECK_EQUAL(syscall(SYS_tkill, thread, 0), 0);
  hold.Release();
  const Clock::time_point end = Clock::now() + kPatience;
  for (std::string code; code != "GUEST_GONE";) {
    CHECK(Clock::now() < end);
    try {
      hold.Begin();
      hold.Await(end);
      hold.Release();
    } catch (const Error& error) {
      // A thread that is about to be gone may not be traced any more (kernel/ptrace.c, ptrace_attach).
      code = error.code();
    }
  }
}

TEST("thread_hold: threads that may not be held, or are another's") {
  ThreadHold nobody({-1});
  CHECK_THROWS("GUEST_GONE", [&] { nobody.Begin(); });
  Shared* const shared = MapShared();
  const Victim victim(shared);
  ThreadHold first(victim.threads());
  first.Begin();
  first.Await(Clock::now() + kPatience);
  std::thread([&] {
    ThreadHold second(victim.threads());
    CHECK_THROWS("PERMISSION", [&] { second.Begin(); });
  }).join();
  first.Release();
  victim.RequireProgress();
}

}  // namespace

}  // namespace penumbra::test
