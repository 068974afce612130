#include "binding/guest_thread.h"

#include <exception>
#include <optional>
#include <utility>

#include "binding/environment.h"
#include "error.h"

namespace penumbra {

struct GuestThread::Task {
  GuestThread* owner;
  bool last;
  Napi::Promise::Deferred deferred;
  Job job;
  Reply reply;
  std::optional<Error> error;
};

GuestThread::GuestThread(Napi::Env env)
    : env_(env), completion_(Completion::New(env, "penumbra guest thread", 0, 1, nullptr)), thread_([this] { Run(); }) {
  // A guest that is merely attached must not keep the process alive.
  completion_.Unref(env);
  // Added after that of `completion_`, so that it runs before it: objects are finalized only after both.
  napi_add_env_cleanup_hook(env, &GuestThread::OnEnvironmentEnd, this);
}

GuestThread::~GuestThread() { End(napi_tsfn_abort); }

Napi::Promise GuestThread::Post(Napi::Env env, Job job) { return Enqueue(env, std::move(job), false); }

Napi::Promise GuestThread::Close(Napi::Env env, Job job) {
  const Napi::Promise promise = Enqueue(env, std::move(job), true);
  closed_ = true;
  return promise;
}

Napi::Promise GuestThread::Enqueue(Napi::Env env, Job job, bool last) {
  const auto deferred = Napi::Promise::Deferred::New(env);
  const Napi::Promise promise = deferred.Promise();
  if (closed_) {
    deferred.Reject(ToJavaScript(env, Error("BAD_ARGUMENT", "the guest is detached")));
    return promise;
  }
  auto task = std::make_unique<Task>(Task{this, last, deferred, std::move(job), nullptr, std::nullopt});
  if (unsettled_++ == 0) completion_.Ref(env);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
  return promise;
}

void GuestThread::End(napi_threadsafe_function_release_mode mode) {
  if (ended_) return;
  ended_ = closed_ = true;
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  wake_.notify_one();
  thread_.join();
  napi_remove_env_cleanup_hook(env_, &GuestThread::OnEnvironmentEnd, this);
  napi_release_threadsafe_function(completion_, mode);
}

void GuestThread::OnEnvironmentEnd(void* self) { static_cast<GuestThread*>(self)->End(napi_tsfn_abort); }

void GuestThread::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return quit_ || !queue_.empty(); });
    if (quit_) return;
    std::unique_ptr<Task> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    try {
      task->reply = task->job();
    } catch (const Error& error) {
      task->error = error;
    } catch (const std::exception& error) {
      task->error = Error("INTERNAL", error.what());
    }
    // What the job captured is freed here, on the thread that used it.
    task->job = nullptr;
    if (completion_.BlockingCall(task.get()) == napi_ok) task.release();
    lock.lock();
  }
}

void GuestThread::Settle(Napi::Env env, Napi::Function, void*, Task* raw) {
  const std::unique_ptr<Task> task(raw);
  if (env == nullptr) return;
  GuestThread* owner = task->owner;
  if (--owner->unsettled_ == 0) owner->completion_.Unref(env);
  if (task->last) owner->End(napi_tsfn_release);
  if (task->error) {
    task->deferred.Reject(ToJavaScript(env, *task->error));
    return;
  }
  try {
    task->deferred.Resolve(task->reply ? task->reply(env) : env.Undefined());
  } catch (const Napi::Error& error) {
    task->deferred.Reject(error.Value());
  }
}

}  // namespace penumbra
