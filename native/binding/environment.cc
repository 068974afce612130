#include "binding/environment.h"

namespace penumbra {

Napi::Value ToJavaScript(Napi::Env env, const Error& error) {
  const Environment* environment = env.GetInstanceData<Environment>();
  Napi::Object details = Napi::Object::New(env);
  if (error.address()) details.Set("address", Napi::BigInt::New(env, *error.address()));
  return environment->error_class.New(
      {Napi::String::New(env, error.code()), Napi::String::New(env, error.what()), details});
}

}  // namespace penumbra
