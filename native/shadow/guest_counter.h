// The guest's time-stamp counter, which no interface to a stopped guest tells.
#ifndef PENUMBRA_NATIVE_SHADOW_GUEST_COUNTER_H_
#define PENUMBRA_NATIVE_SHADOW_GUEST_COUNTER_H_

#include <cstdint>
#include <optional>

#include "engine/engine.h"
#include "shadow/kernel_reader.h"
#include "shadow/recipe.h"

namespace penumbra {

/// From what the counter was at the guest's last clock interrupt on, which was milliseconds ago where the guest is
/// busy. That is all where it may stand while the guest stands; under KVM it runs on. Nothing where the guest keeps its
/// time by another device, or its data do not make sense.
std::optional<CounterRange> ReadCounter(const CounterRule& rule, const KernelReader& kernel, uint64_t per_cpu_base);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_GUEST_COUNTER_H_
