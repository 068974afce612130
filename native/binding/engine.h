// What JavaScript may ask of the host's engines before it chooses one.
#ifndef PENUMBRA_NATIVE_BINDING_ENGINE_H_
#define PENUMBRA_NATIVE_BINDING_ENGINE_H_

#include <napi.h>

namespace penumbra {

void InitEngine(Napi::Env env, Napi::Object exports);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_ENGINE_H_
