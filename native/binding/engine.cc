#include "binding/engine.h"

#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "binding/environment.h"
#include "engine/calibrate.h"
#include "engine/kvm_device.h"
#include "error.h"

namespace penumbra {

namespace {

// (device: string): Uint32Array, six words for each leaf: function, index, eax, ebx, ecx, edx
Napi::Value KvmCpuidLeaves(const Napi::CallbackInfo& info) {
  const std::string path = info[0].As<Napi::String>();
  return Guarded(info.Env(), [&]() -> Napi::Value {
    std::vector<uint32_t> words;
    for (const CpuidLeaf& leaf : KvmDevice(path).SupportedCpuid()) {
      words.insert(words.end(), {leaf.function, leaf.index, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx});
    }
    Napi::Uint32Array array = Napi::Uint32Array::New(info.Env(), words.size());
    if (!words.empty()) std::memcpy(array.Data(), words.data(), words.size() * sizeof words[0]);
    return array;
  });
}

// Measures on a thread of the pool: it takes long enough to be noticed.
class CalibrationWorker final : public Napi::AsyncWorker {
 public:
  CalibrationWorker(Napi::Env env, std::string device)
      : Napi::AsyncWorker(env, "penumbra calibration"),
        deferred_(Napi::Promise::Deferred::New(env)),
        device_(std::move(device)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      result_ = Calibrate(device_);
    } catch (const Error& error) {
      error_ = error;
    } catch (const std::exception& error) {
      error_ = Error("INTERNAL", error.what());
    }
  }

  void OnOK() override {
    if (error_) {
      deferred_.Reject(ToJavaScript(Env(), *error_));
      return;
    }
    Napi::Object result = Napi::Object::New(Env());
    result.Set("guestRate", result_.guest_rate);
    result.Set("hostRate", result_.host_rate);
    result.Set("exitNs", result_.exit_ns);
    deferred_.Resolve(result);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string device_;
  Calibration result_{};
  std::optional<Error> error_;
};

// (device: string): Promise<{ guestRate, hostRate, exitNs }>
Napi::Value CalibrateKvm(const Napi::CallbackInfo& info) {
  // Deletes itself when it is done.
  auto* worker = new CalibrationWorker(info.Env(), info[0].As<Napi::String>());
  const Napi::Promise promise = worker->promise();
  worker->Queue();
  return promise;
}

}  // namespace

void InitEngine(Napi::Env env, Napi::Object exports) {
  exports.Set("kvmCpuid", Napi::Function::New(env, KvmCpuidLeaves, "kvmCpuid"));
  exports.Set("calibrateKvm", Napi::Function::New(env, CalibrateKvm, "calibrateKvm"));
}

}  // namespace penumbra
