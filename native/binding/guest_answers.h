// What a guest's thread is told and what it answers, between JavaScript and C++.
#ifndef PENUMBRA_NATIVE_BINDING_GUEST_ANSWERS_H_
#define PENUMBRA_NATIVE_BINDING_GUEST_ANSWERS_H_

#include <napi.h>

#include <chrono>
#include <memory>
#include <vector>

#include "binding/guest_state.h"
#include "hypervisor/registers.h"
#include "hypervisor/vcpu_control.h"
#include "memory/scan.h"
#include "shadow/batch.h"

namespace penumbra {

/// VcpuState of src/target/target.ts.
Napi::Value ToJavaScript(Napi::Env env, const std::vector<VcpuState>& vcpus);

/// { stopNs, registersNs, resumeNs }.
Napi::Value ToJavaScript(Napi::Env env, const VcpuControl::Times& times);

/// { stub, pages }: the registers read in either way.
Napi::Value ToJavaScript(Napi::Env env, const VcpuControl::Comparison& both);

/// { addresses, next, searched }.
Napi::Value ToJavaScript(Napi::Env env, const VirtualHits& hits);

double Nanoseconds(std::chrono::steady_clock::duration duration);

/// NativeBatchResult of src/binding.ts.
Napi::Value ToJavaScript(Napi::Env env, BatchResult&& result);

/// EnterReport of src/binding.ts.
Napi::Value ToJavaScript(Napi::Env env, const EnterReport& report);

/// NativeAskReport of src/binding.ts.
Napi::Value ToJavaScript(Napi::Env env, AskReport&& report);

/// An encoded batch, copied: JavaScript may change its buffer while the guest's thread reads it.
class BatchBytes {
 public:
  explicit BatchBytes(Napi::Value value);
  /// Throws as Batch does; what is returned must not outlive this.
  Batch batch() const { return {reinterpret_cast<const uint8_t*>(words_.data()), size_}; }

 private:
  std::vector<uint64_t> words_;
  size_t size_;
};

/// `true` is a short stop.
VcpuControl::Stop StopKind(Napi::Value value);

/// What VcpuControl::UsePages takes.
struct VcpuHandles {
  std::unique_ptr<VcpuPages> pages;
  std::vector<pid_t> threads;
};

/// Of { pid, fds, threads }, undefined for none. Throws Error UNSUPPORTED.
std::shared_ptr<VcpuHandles> ReadVcpuHandles(Napi::Value value);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_GUEST_ANSWERS_H_
