// What the addon keeps per Node environment (main thread or worker thread).
#ifndef PENUMBRA_NATIVE_BINDING_ENVIRONMENT_H_
#define PENUMBRA_NATIVE_BINDING_ENVIRONMENT_H_

#include <napi.h>

#include "error.h"

namespace penumbra {

struct Environment {
  Napi::FunctionReference error_class;  ///< PenumbraError, handed over by setErrorClass()
};

/// The JavaScript PenumbraError for a native Error.
Napi::Value ToJavaScript(Napi::Env env, const Error& error);

/// Runs `body` and turns a native Error into a JavaScript exception.
template <typename Body>
auto Guarded(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw Napi::Error(env, ToJavaScript(env, error));
  }
}

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_ENVIRONMENT_H_
