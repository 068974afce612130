// Ends calls that take too long.
#ifndef PENUMBRA_NATIVE_SHADOW_CALL_TIMER_H_
#define PENUMBRA_NATIVE_SHADOW_CALL_TIMER_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "engine/engine.h"

namespace penumbra {

/// One thread that interrupts the engine, again and again, from the deadline until it is disarmed: an interrupt
/// that falls between two calls has no effect by itself.
class CallTimer {
 public:
  using Clock = std::chrono::steady_clock;

  explicit CallTimer(Engine* engine) : engine_(engine), thread_([this] { Run(); }) {}
  ~CallTimer();

  void Arm(Clock::time_point when);
  void Disarm();

 private:
  void Run();

  Engine* engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Clock::time_point when_ = Clock::time_point::max();
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_CALL_TIMER_H_
