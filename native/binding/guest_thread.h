// The one native thread per guest, on which everything that can block is done; JavaScript gets promises.
#ifndef PENUMBRA_NATIVE_BINDING_GUEST_THREAD_H_
#define PENUMBRA_NATIVE_BINDING_GUEST_THREAD_H_

#include <napi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace penumbra {

class GuestThread {
 public:
  /// Makes the JavaScript value of a finished job, on JavaScript's thread.
  using Reply = std::function<Napi::Value(Napi::Env)>;
  /// Runs on the guest's thread; throws Error to reject the promise.
  using Job = std::function<Reply()>;

  explicit GuestThread(Napi::Env env);
  /// Lets the job in progress finish and drops the others.
  ~GuestThread();

  /// Jobs run in the order of the calls. After Close the promise is rejected.
  Napi::Promise Post(Napi::Env env, Job job);

  /// Runs a last job after all others and ends the thread; the promise is settled once it has ended.
  Napi::Promise Close(Napi::Env env, Job job);

 private:
  struct Task;

  Napi::Promise Enqueue(Napi::Env env, Job job, bool last);
  void Run();
  void End(napi_threadsafe_function_release_mode mode);
  static void OnEnvironmentEnd(void* self);
  static void Settle(Napi::Env env, Napi::Function, void*, Task* task);

  using Completion = Napi::TypedThreadSafeFunction<void, Task, &GuestThread::Settle>;

  napi_env env_;
  Completion completion_;
  bool closed_ = false;  ///< no job is taken any more; touched on JavaScript's thread only, like the next two
  bool ended_ = false;   ///< the thread is no more, and `completion_` must not be used
  size_t unsettled_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Task>> queue_;
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_GUEST_THREAD_H_
