// Machine code that engines which execute natively put in the place of trapped functions.
#ifndef PENUMBRA_NATIVE_ENGINE_TRAP_CODE_H_
#define PENUMBRA_NATIVE_ENGINE_TRAP_CODE_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace penumbra {

inline constexpr uint8_t kHalt = 0xf4;

struct TrapCode {
  std::array<uint8_t, 11> bytes;
  size_t size;
};

/// A function that returns `value`.
TrapCode CodeThatReturns(uint64_t value);

/// Bytes of the instruction at `code` when it is one of those that do nothing and that compilers and the kernel's
/// tracing put at the start of functions: ENDBR64, a NOP of up to nine bytes (Intel SDM volume 2B, NOP). Otherwise 0.
size_t LengthOfNothing(const uint8_t* code, size_t length);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_TRAP_CODE_H_
