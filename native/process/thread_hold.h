// Keeps threads of another process from running for a while.
#ifndef PENUMBRA_NATIVE_PROCESS_THREAD_HOLD_H_
#define PENUMBRA_NATIVE_PROCESS_THREAD_HOLD_H_

#include <sys/types.h>

#include <chrono>
#include <vector>

namespace penumbra {

/// Stops threads by ptrace(2) and lets them run on, without touching their registers or memory: a system call that is
/// cut short ends as it does for any signal. When this process ends, by whatever means, the kernel lets them run on.
///
/// ptrace knows its tracer by the thread: one thread does everything.
class ThreadHold {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// `threads` by their ids in our pid namespace.
  explicit ThreadHold(const std::vector<pid_t>& threads);
  /// Releases.
  ~ThreadHold();
  ThreadHold(const ThreadHold&) = delete;
  ThreadHold& operator=(const ThreadHold&) = delete;

  /// Orders all threads to stop. Throws Error("PERMISSION") where they may not be traced or somebody else traces them,
  /// "GUEST_GONE" when they have ended; none is held then.
  void Begin();
  /// Returns when all stand still. Throws Error("TIMEOUT"), "GUEST_GONE"; the hold lasts until Release all the same.
  void Await(TimePoint deadline);
  /// Lets all run on, once they have stopped: within 5 s, or with the next call of any method. May be called twice.
  void Release() noexcept;

 private:
  enum class State { kFree, kOrdered, kStopped };
  struct Thread {
    pid_t id;
    State state;
    int signal;  ///< that it was about to take, to be handed on
  };

  static void Order(Thread& thread);
  static bool AwaitOne(Thread& thread, TimePoint deadline);
  static bool Look(Thread& thread);

  std::vector<Thread> threads_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_THREAD_HOLD_H_
