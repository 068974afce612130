// CMPXCHG16B for KVMs whose instruction emulator lacks it (arch/x86/kvm/emulate.c knows the 8-byte form only). Where
// code at privilege level 0 is emulated rather than run, the slab allocator's fast path fails without it.
#ifndef PENUMBRA_NATIVE_ENGINE_CMPXCHG16B_H_
#define PENUMBRA_NATIVE_ENGINE_CMPXCHG16B_H_

#include <cstddef>
#include <cstdint>
#include <functional>

namespace penumbra {

/// What an instruction with a memory operand works on.
struct OperandRegisters {
  /// in the order of their encoding: rax rcx rdx rbx rsp rbp rsi rdi r8 .. r15
  uint64_t general[16];
  uint64_t rip;
  uint64_t rflags;
  uint64_t fs_base, gs_base;
};

/// The host address of `length` guest-virtual bytes, or nullptr when they are not mapped.
using MemoryAt = std::function<uint8_t*(uint64_t address, size_t length)>;

/// Executes the instruction at `code` if it is CMPXCHG16B (Intel SDM volume 2A) in 64-bit mode; not atomically, which
/// a single processor cannot tell. False, with nothing changed, when it is another instruction, its bytes go beyond
/// `length`, its operand is not mapped or not aligned (which would be an exception).
bool EmulateCmpxchg16b(const uint8_t* code, size_t length, OperandRegisters* registers, const MemoryAt& memory);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_CMPXCHG16B_H_
