// JavaScript's way to the watchdog, to file locks and to file descriptors.
#ifndef PENUMBRA_NATIVE_BINDING_PROCESS_H_
#define PENUMBRA_NATIVE_BINDING_PROCESS_H_

#include <napi.h>

#include <memory>

#include "process/watchdog.h"

namespace penumbra {

/// Adds Watchdog, tryLockFile, unlockFile, duplicateFds and closeFd to the exports.
void InitProcess(Napi::Env env, Napi::Object exports);

/// The watchdog behind a JavaScript Watchdog. Throws Napi::TypeError when `value` is none.
std::shared_ptr<Watchdog> WatchdogOf(Napi::Value value);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_PROCESS_H_
