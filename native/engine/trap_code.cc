#include "engine/trap_code.h"

#include <cstring>

namespace penumbra {

namespace {

struct Nothing {
  size_t size;
  uint8_t bytes[9];
};

// Intel SDM volume 2B, table 4-12, and ENDBR64. No one of them begins another one.
constexpr Nothing kNothings[] = {
    {4, {0xf3, 0x0f, 0x1e, 0xfa}},
    {1, {0x90}},
    {2, {0x66, 0x90}},
    {3, {0x0f, 0x1f, 0x00}},
    {4, {0x0f, 0x1f, 0x40, 0x00}},
    {5, {0x0f, 0x1f, 0x44, 0x00, 0x00}},
    {6, {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00}},
    {7, {0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00}},
    {8, {0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00}},
    {9, {0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00}},
};

}  // namespace

TrapCode CodeThatReturns(uint64_t value) {
  constexpr uint8_t kRet = 0xc3;
  if (value == 0) return {{0x31, 0xc0, kRet}, 3};  // xor eax, eax
  TrapCode code{};
  if (value <= 0xffffffff) {
    code.bytes[0] = 0xb8;  // mov eax, imm32
    std::memcpy(&code.bytes[1], &value, 4);
    code.size = 6;
  } else {
    code.bytes[0] = 0x48;  // movabs rax, imm64
    code.bytes[1] = 0xb8;
    std::memcpy(&code.bytes[2], &value, 8);
    code.size = 11;
  }
  code.bytes[code.size - 1] = kRet;
  return code;
}

size_t LengthOfNothing(const uint8_t* code, size_t length) {
  for (const Nothing& nothing : kNothings) {
    if (nothing.size <= length && std::memcmp(code, nothing.bytes, nothing.size) == 0) return nothing.size;
  }
  return 0;
}

}  // namespace penumbra
