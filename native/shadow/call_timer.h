// Ends calls that take too long.
#ifndef PENUMBRA_NATIVE_SHADOW_CALL_TIMER_H_
#define PENUMBRA_NATIVE_SHADOW_CALL_TIMER_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "engine/engine.h"

namespace penumbra {

/// One thread that interrupts the engine when no call ended for the limit's time, or all of them took too long, and
/// then again and again until it is disarmed: an interrupt that falls between two calls has no effect by itself.
class CallTimer {
 public:
  using Clock = std::chrono::steady_clock;

  /// `calls` counts the calls that have begun; whoever makes them counts, which is the guest. It must outlive the
  /// timer.
  CallTimer(Engine* engine, const uint64_t* calls) : engine_(engine), calls_(calls), thread_([this] { Run(); }) {}
  ~CallTimer();

  /// A call that begins now or later may take between one and two times `limit`, all of them together `whole`.
  void Arm(Clock::duration limit, Clock::duration whole);
  void Disarm();

 private:
  void Run();
  uint64_t calls() const { return __atomic_load_n(calls_, __ATOMIC_RELAXED); }

  Engine* engine_;
  const uint64_t* calls_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Clock::duration limit_{};
  Clock::time_point when_ = Clock::time_point::max();
  Clock::time_point end_ = Clock::time_point::max();
  Clock::time_point wakes_ = Clock::time_point::max();  ///< when the thread looks again by itself
  uint64_t calls_then_ = 0;                             ///< when `when_` was set
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_CALL_TIMER_H_
