// From the registers of a stopped guest to a context in which its kernel can be called.
#ifndef PENUMBRA_NATIVE_SHADOW_CONTEXT_H_
#define PENUMBRA_NATIVE_SHADOW_CONTEXT_H_

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "hypervisor/registers.h"
#include "memory/page_walk.h"
#include "memory/private_ram.h"
#include "shadow/recipe.h"
#include "shadow/scratch.h"

namespace penumbra {

/// Where a vCPU was when the guest was stopped.
enum class StopClass : uint32_t { kUser = 0, kIdle = 1, kKernel = 2 };

struct Context {
  CpuContext cpu;
  AddressSpace space;  ///< of the borrowed task, scratch included
  uint64_t stack_top;  ///< the calls' stack grows down from here
  uint64_t per_cpu_base;
  uint32_t cpu_number;
  uint32_t vcpu;  ///< index of the vCPU that was taken
  StopClass stop_class;
  bool in_kernel;            ///< this vCPU or another was in the middle of kernel code
  uint64_t scratch_address;  ///< guest-virtual address of the scratch memory
};

/// Chooses the vCPU (user mode before idle before kernel), borrows the recipe's task on it, hooks the scratch memory
/// into its address space and applies the recipe's patches, all in private memory.
/// Throws Error LOCKED when this stop cannot be used (stop again), NO_TASK when the borrowed task is gone, CORRUPT
/// when the guest's own data make no sense.
Context BuildContext(const Recipe& recipe, const std::vector<VcpuState>& vcpus, const PrivateRam& memory,
                     Scratch* scratch);

/// Puts the recipe's patches into private memory; BuildContext has done so.
void ApplyPatches(const Recipe& recipe, const Context& context, const PrivateRam& memory);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_CONTEXT_H_
