#include "binding/guest_answers.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "error.h"

namespace penumbra {

Napi::Value ToJavaScript(Napi::Env env, const std::vector<VcpuState>& vcpus) {
  Napi::Array array = Napi::Array::New(env, vcpus.size());
  const auto word = [env](uint64_t value) { return Napi::BigInt::New(env, value); };
  for (size_t i = 0; i < vcpus.size(); ++i) {
    const VcpuState& state = vcpus[i];
    Napi::Object object = Napi::Object::New(env);
    Napi::BigUint64Array gpr = Napi::BigUint64Array::New(env, 16);
    std::memcpy(gpr.Data(), state.gpr, sizeof state.gpr);
    object.Set("index", static_cast<double>(i));
    object.Set("gpr", gpr);
    object.Set("rip", word(state.rip));
    object.Set("rflags", state.rflags);
    object.Set("cs", state.cs);
    object.Set("ss", state.ss);
    object.Set("fsBase", word(state.fs_base));
    object.Set("gsBase", word(state.gs_base));
    object.Set("kernelGsBase", word(state.kernel_gs_base));
    object.Set("cr0", word(state.cr0));
    object.Set("cr2", word(state.cr2));
    object.Set("cr3", word(state.cr3));
    object.Set("cr4", word(state.cr4));
    object.Set("cr8", word(state.cr8));
    object.Set("efer", word(state.efer));
    array.Set(static_cast<uint32_t>(i), object);
  }
  return array;
}

Napi::Value ToJavaScript(Napi::Env env, BatchResult&& result) {
  Napi::Object object = Napi::Object::New(env);
  Napi::BigInt64Array values = Napi::BigInt64Array::New(env, result.values.size());
  if (!result.values.empty()) std::memcpy(values.Data(), result.values.data(), result.values.size() * 8);
  Napi::Uint32Array outs = Napi::Uint32Array::New(env, result.outs.size() * 4);
  static_assert(sizeof(OutRecord) == 16);
  if (!result.outs.empty()) std::memcpy(outs.Data(), result.outs.data(), result.outs.size() * sizeof(OutRecord));
  Napi::Uint32Array blocked = Napi::Uint32Array::New(env, result.blocked.size());
  std::copy(result.blocked.begin(), result.blocked.end(), blocked.Data());
  object.Set("values", values);
  object.Set("blocked", blocked);
  object.Set("outs", outs);
  object.Set("bytes", Napi::Buffer<uint8_t>::Copy(env, result.bytes.data(), result.bytes.size()));
  if (result.failure) {
    Napi::Object failure = Napi::Object::New(env);
    failure.Set("code", result.failure->code);
    failure.Set("message", result.failure->message);
    failure.Set("address", Napi::BigInt::New(env, result.failure->address));
    Napi::BigUint64Array callers = Napi::BigUint64Array::New(env, result.failure->callers.size());
    std::copy(result.failure->callers.begin(), result.failure->callers.end(), callers.Data());
    failure.Set("callers", callers);
    object.Set("failure", failure);
  }
  return object;
}

Napi::Value ToJavaScript(Napi::Env env, const VcpuControl::Times& times) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("stopNs", Nanoseconds(times.stop));
  object.Set("registersNs", Nanoseconds(times.registers));
  object.Set("resumeNs", Nanoseconds(times.resume));
  return object;
}

Napi::Value ToJavaScript(Napi::Env env, const VcpuControl::Comparison& both) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("stub", ToJavaScript(env, both.by_stub));
  object.Set("pages", ToJavaScript(env, both.by_pages));
  return object;
}

Napi::Value ToJavaScript(Napi::Env env, const VirtualHits& hits) {
  Napi::BigUint64Array addresses = Napi::BigUint64Array::New(env, hits.addresses.size());
  std::copy(hits.addresses.begin(), hits.addresses.end(), addresses.Data());
  Napi::Object object = Napi::Object::New(env);
  object.Set("addresses", addresses);
  object.Set("next", Napi::BigInt::New(env, hits.next));
  object.Set("searched", static_cast<double>(hits.searched));
  return object;
}

Napi::Value ToJavaScript(Napi::Env env, const EnterReport& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("stopNs", Nanoseconds(report.stop));
  object.Set("refreshNs", Nanoseconds(report.refresh));
  object.Set("registersNs", Nanoseconds(report.registers));
  object.Set("loadNs", Nanoseconds(report.load));
  object.Set("stopClass", static_cast<double>(report.stop_class));
  object.Set("inKernel", report.in_kernel);
  object.Set("runsOn", report.runs_on);
  object.Set("vcpu", report.vcpu);
  object.Set("privatePages", static_cast<double>(report.private_pages));
  return object;
}

Napi::Value ToJavaScript(Napi::Env env, AskReport&& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("entered", ToJavaScript(env, report.entered));
  object.Set("result", ToJavaScript(env, std::move(report.result)));
  object.Set("standstillNs", Nanoseconds(report.standstill));
  return object;
}

BatchBytes::BatchBytes(Napi::Value value) {
  const auto buffer = value.As<Napi::Buffer<uint8_t>>();
  size_ = buffer.Length();
  words_.resize((size_ + 7) / 8);
  std::memcpy(words_.data(), buffer.Data(), size_);
}

double Nanoseconds(std::chrono::steady_clock::duration duration) {
  return static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

VcpuControl::Stop StopKind(Napi::Value value) {
  return value.ToBoolean() ? VcpuControl::Stop::kShort : VcpuControl::Stop::kLong;
}

std::shared_ptr<VcpuHandles> ReadVcpuHandles(Napi::Value value) {
  if (value.IsUndefined()) return nullptr;
  const auto object = value.As<Napi::Object>();
  const auto numbers = [&object](const char* name) {
    const auto array = object.Get(name).As<Napi::Array>();
    std::vector<int> list;
    for (uint32_t i = 0; i < array.Length(); ++i) list.push_back(array.Get(i).As<Napi::Number>().Int32Value());
    return list;
  };
  const pid_t pid = object.Get("pid").As<Napi::Number>().Int32Value();
  return std::make_shared<VcpuHandles>(std::make_unique<VcpuPages>(pid, numbers("fds")), numbers("threads"));
}

}  // namespace penumbra
