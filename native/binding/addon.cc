// Entry point of the addon.
#include <napi.h>

#include "binding/engine.h"
#include "binding/environment.h"
#include "binding/guest.h"
#include "binding/hypervisor.h"
#include "binding/process.h"

namespace {

Napi::Value SetErrorClass(const Napi::CallbackInfo& info) {
  info.Env().GetInstanceData<penumbra::Environment>()->error_class = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Object InitAddon(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new penumbra::Environment());
  exports.Set("setErrorClass", Napi::Function::New(env, SetErrorClass, "setErrorClass"));
  penumbra::InitEngine(env, exports);
  penumbra::InitGuest(env, exports);
  penumbra::InitHypervisor(env, exports);
  penumbra::InitProcess(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(penumbra, InitAddon)
