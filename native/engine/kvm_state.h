// The state of a virtual CPU at the first instruction of a call.
#ifndef PENUMBRA_NATIVE_ENGINE_KVM_STATE_H_
#define PENUMBRA_NATIVE_ENGINE_KVM_STATE_H_

#include "engine/engine.h"
#include "engine/kvm_vm.h"

namespace penumbra {

/// Sets everything but the general registers: 64-bit mode at privilege level 0 with the guest's control registers,
/// tables and MSRs. `pristine` are the system registers of a virtual CPU that never ran.
///
/// Control bits that mean nothing to code that runs at privilege level 0 and never leaves it are left out, so that
/// hosts which lack the features behind them will do (CpuContext says what is left).
/// Throws Error ENGINE when KVM refuses the guest's registers.
void LoadState(const CpuContext& context, const kvm_sregs& pristine, KvmVm* vm);

/// The registers of a function call: interrupts enabled, as they are when the kernel serves a system call.
kvm_regs RegistersOf(const CallRegisters& call);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_KVM_STATE_H_
