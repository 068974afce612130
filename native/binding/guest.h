// class Guest of the addon: one guest's RAM, gdbstub and shadow, driven by one native thread.
#ifndef PENUMBRA_NATIVE_BINDING_GUEST_H_
#define PENUMBRA_NATIVE_BINDING_GUEST_H_

#include <napi.h>

namespace penumbra {

void InitGuest(Napi::Env env, Napi::Object exports);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_GUEST_H_
