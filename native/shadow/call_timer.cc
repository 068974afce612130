#include "shadow/call_timer.h"

#include <algorithm>

namespace penumbra {

namespace {

constexpr std::chrono::milliseconds kRepeat(2);

}  // namespace

CallTimer::~CallTimer() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void CallTimer::Arm(Clock::duration limit, Clock::duration whole) {
  bool is_sooner;
  {
    const std::lock_guard lock(mutex_);
    limit_ = limit;
    const Clock::time_point now = Clock::now();
    end_ = now + whole;
    when_ = std::min(now + limit, end_);
    calls_then_ = calls();
    is_sooner = when_ < wakes_;
  }
  // Waking the thread up costs more than many a call: most times it is going to look soon enough.
  if (is_sooner) changed_.notify_one();
}

void CallTimer::Disarm() {
  // No notification: the thread finds the deadline moved when it wakes up by itself.
  const std::lock_guard lock(mutex_);
  when_ = Clock::time_point::max();
}

void CallTimer::Run() {
  std::unique_lock lock(mutex_);
  while (!quit_) {
    wakes_ = when_;
    if (when_ == Clock::time_point::max()) {
      changed_.wait(lock);
    } else if (Clock::now() < when_) {
      changed_.wait_until(lock, when_);
    } else if (calls() != calls_then_ && Clock::now() < end_) {
      calls_then_ = calls();
      when_ = std::min(Clock::now() + limit_, end_);
    } else {
      engine_->Interrupt();
      wakes_ = Clock::now() + kRepeat;
      changed_.wait_for(lock, kRepeat);
    }
  }
}

}  // namespace penumbra
