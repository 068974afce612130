#include "binding/process.h"

#include <unistd.h>

#include <string>
#include <vector>

#include "binding/environment.h"
#include "process/file_lock.h"
#include "process/foreign_descriptors.h"

namespace penumbra {

namespace {

// Tells a JavaScript Watchdog from any other object.
constexpr napi_type_tag kWatchdogTag{0x70656e756d627261, 0x7761746368646f67};

WatchdogOrder ReadOrder(Napi::Value value) {
  const auto object = value.As<Napi::Object>();
  const auto bytes = object.Get("bytes").As<Napi::Buffer<char>>();
  return {std::string(bytes.Data(), bytes.Length()), object.Get("lastId").As<Napi::String>()};
}

std::vector<int> ReadNumbers(Napi::Value value) {
  const auto array = value.As<Napi::Array>();
  std::vector<int> numbers;
  for (uint32_t i = 0; i < array.Length(); i++) numbers.push_back(array.Get(i).As<Napi::Number>().Int32Value());
  return numbers;
}

// new Watchdog({ executable, stubFd, qmpFd, vcpuFds, foundRunning, undo, resume }), the last two { bytes: Buffer,
// lastId: string }
class WatchdogObject : public Napi::ObjectWrap<WatchdogObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(
        env, "Watchdog",
        {InstanceAccessor<&WatchdogObject::Pid>("pid"), InstanceMethod<&WatchdogObject::SetPhase>("setPhase"),
         InstanceMethod<&WatchdogObject::Release>("release")});
  }

  explicit WatchdogObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<WatchdogObject>(info) {
    const auto options = info[0].As<Napi::Object>();
    const std::string executable = options.Get("executable").As<Napi::String>();
    const int stub_fd = options.Get("stubFd").As<Napi::Number>().Int32Value();
    const int qmp_fd = options.Get("qmpFd").As<Napi::Number>().Int32Value();
    const std::vector<int> vcpu_fds = ReadNumbers(options.Get("vcpuFds"));
    const bool found_running = options.Get("foundRunning").ToBoolean();
    const WatchdogOrder undo = ReadOrder(options.Get("undo"));
    const WatchdogOrder resume = ReadOrder(options.Get("resume"));
    Guarded(info.Env(), [&] {
      watchdog_ = std::make_shared<Watchdog>(executable, stub_fd, qmp_fd, vcpu_fds, found_running, undo, resume);
    });
    info.This().As<Napi::Object>().TypeTag(&kWatchdogTag);
  }

  const std::shared_ptr<Watchdog>& watchdog() const { return watchdog_; }

 private:
  Napi::Value Pid(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), watchdog_->pid()); }

  // (phase: number): the number of a WatchdogPhase
  Napi::Value SetPhase(const Napi::CallbackInfo& info) {
    watchdog_->SetPhase(static_cast<WatchdogPhase>(info[0].As<Napi::Number>().Uint32Value()));
    return info.Env().Undefined();
  }

  // Waits for the end of a process that has nothing left to do: well under a millisecond.
  Napi::Value Release(const Napi::CallbackInfo& info) {
    watchdog_->Release();
    return info.Env().Undefined();
  }

  std::shared_ptr<Watchdog> watchdog_;
};

// (path: string, owner: string): { fd } or { holder: string }
Napi::Value TryLock(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  const std::string owner = info[1].As<Napi::String>();
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const FileLock lock = TryLockFile(path, owner);
    Napi::Object result = Napi::Object::New(info.Env());
    if (lock.fd >= 0) {
      result.Set("fd", lock.fd);
    } else {
      result.Set("holder", lock.holder);
    }
    return result;
  });
}

// (path: string, fd: number): void
Napi::Value Unlock(const Napi::CallbackInfo& info) {
  UnlockFile(info[0].As<Napi::String>(), info[1].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

// (pid: number, numbers: number[]): number[]
Napi::Value DuplicateFds(const Napi::CallbackInfo& info) {
  const pid_t pid = info[0].As<Napi::Number>().Int32Value();
  const std::vector<int> numbers = ReadNumbers(info[1]);
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const std::vector<int> fds = DuplicateFrom(pid, numbers);
    Napi::Array result = Napi::Array::New(info.Env(), fds.size());
    for (uint32_t i = 0; i < fds.size(); i++) result.Set(i, fds[i]);
    return result;
  });
}

// (fd: number): void
Napi::Value CloseFd(const Napi::CallbackInfo& info) {
  close(info[0].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

}  // namespace

std::shared_ptr<Watchdog> WatchdogOf(Napi::Value value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kWatchdogTag)) {
    throw Napi::TypeError::New(value.Env(), "a Watchdog is expected");
  }
  return WatchdogObject::Unwrap(value.As<Napi::Object>())->watchdog();
}

void InitProcess(Napi::Env env, Napi::Object exports) {
  exports.Set("Watchdog", WatchdogObject::Define(env));
  exports.Set("tryLockFile", Napi::Function::New(env, TryLock, "tryLockFile"));
  exports.Set("unlockFile", Napi::Function::New(env, Unlock, "unlockFile"));
  exports.Set("duplicateFds", Napi::Function::New(env, DuplicateFds, "duplicateFds"));
  exports.Set("closeFd", Napi::Function::New(env, CloseFd, "closeFd"));
}

}  // namespace penumbra
