// Calls a thread out of a system call that would block for ever.
#ifndef PENUMBRA_NATIVE_PROCESS_BELL_H_
#define PENUMBRA_NATIVE_PROCESS_BELL_H_

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace penumbra {

/// Rings once: when a file becomes readable, or at a time. For calls of which there are many and that have no time
/// limit themselves, where asking by poll(2) first would cost as much again.
///
///     while (bell.BeginWait()) {
///       ... one system call; EINTR may mean that it has rung ...
///       bell.EndWait();
///     }
///
/// Outside of these two no system call of the thread is disturbed.
class Bell {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// For the thread that makes it. Throws Error ENGINE when there is no signal for it, std::system_error when there can
  /// be no further thread.
  Bell(int fd, TimePoint when);
  ~Bell();
  Bell(const Bell&) = delete;
  Bell& operator=(const Bell&) = delete;

  /// False when it has rung.
  bool BeginWait() {
    waiting_ = true;
    if (!rung_) return true;
    EndWait();
    return false;
  }
  void EndWait() {
    waiting_ = false;
    // Who finds that it has not rung is not seen waiting by a bell that rings now.
    if (rung_) LetPass();
  }

 private:
  void Watch(int fd, TimePoint when);
  void Ring();
  void LetPass();

  const pthread_t waiter_;
  int quit_fd_;
  std::atomic<bool> waiting_{false};
  std::atomic<bool> rung_{false};
  std::atomic<bool> quit_{false};
  std::mutex mutex_;  ///< held while the thread is kicked
  std::thread thread_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_BELL_H_
