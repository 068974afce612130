// JavaScript's way to a guest's control sockets.
#ifndef PENUMBRA_NATIVE_BINDING_HYPERVISOR_H_
#define PENUMBRA_NATIVE_BINDING_HYPERVISOR_H_

#include <napi.h>

namespace penumbra {

/// Adds connectUnix, sendWithFds and socketPair to the exports.
void InitHypervisor(Napi::Env env, Napi::Object exports);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_HYPERVISOR_H_
