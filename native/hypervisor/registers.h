// What one vCPU's registers say while the guest stands still.
#ifndef PENUMBRA_NATIVE_HYPERVISOR_REGISTERS_H_
#define PENUMBRA_NATIVE_HYPERVISOR_REGISTERS_H_

#include <cstdint>

namespace penumbra {

/// In the names and the order of QEMU's gdb-xml/i386-64bit.xml. Outside 64-bit mode QEMU gives the lower 32
/// bits of the general registers only (target/i386/gdbstub.c, x86_cpu_gdb_read_register).
struct VcpuState {
  uint64_t gpr[16];  // rax rbx rcx rdx rsi rdi rbp rsp r8 .. r15
  uint64_t rip;
  uint32_t rflags;
  uint32_t cs, ss, ds, es, fs, gs;  // selectors
  uint64_t fs_base, gs_base;
  uint64_t kernel_gs_base;  ///< 0 where it is the user's and was not read (VcpuPages)
  uint64_t cr0, cr2, cr3, cr4, cr8, efer;

  bool operator==(const VcpuState&) const = default;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_HYPERVISOR_REGISTERS_H_
