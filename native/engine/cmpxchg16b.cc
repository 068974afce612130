#include "engine/cmpxchg16b.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace penumbra {

namespace {

enum : size_t { kRax = 0, kRcx = 1, kRdx = 2, kRbx = 3 };
constexpr uint64_t kZeroFlag = 1 << 6;
constexpr size_t kOperandSize = 16;
// No instruction is longer: Intel SDM volume 2A, section 2.3.11.
constexpr size_t kLongestInstruction = 15;

// Takes an instruction apart byte by byte; beyond the end there are zeros and `ok` is false.
class CodeReader {
 public:
  CodeReader(const uint8_t* code, size_t length) : code_(code), length_(std::min(length, kLongestInstruction)) {}

  uint8_t Byte() {
    if (at_ >= length_) {
      ok_ = false;
      return 0;
    }
    return code_[at_++];
  }

  /// A signed displacement of `size` bytes.
  int64_t Displacement(size_t size) {
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= static_cast<uint32_t>(Byte()) << (8 * i);
    return size == 1 ? static_cast<int8_t>(value) : static_cast<int32_t>(value);
  }

  bool ok() const { return ok_; }
  size_t position() const { return at_; }

 private:
  const uint8_t* code_;
  size_t length_;
  size_t at_ = 0;
  bool ok_ = true;
};

struct Prefixes {
  uint64_t segment_base = 0;
  uint8_t rex = 0;
  bool supported = true;
};

// Reads prefixes up to and including the first byte of the opcode, which is returned.
uint8_t ReadPrefixes(CodeReader* reader, const OperandRegisters& registers, Prefixes* prefixes) {
  for (;;) {
    const uint8_t byte = reader->Byte();
    // A REX prefix counts only when it is the last one.
    const uint8_t rex = std::exchange(prefixes->rex, 0);
    switch (byte) {
      case 0x64:
        prefixes->segment_base = registers.fs_base;
        break;
      case 0x65:
        prefixes->segment_base = registers.gs_base;
        break;
      case 0x26:
      case 0x2e:
      case 0x36:
      case 0x3e:  // segments that start at 0 in 64-bit mode
      case 0x66:  // without effect beside REX.W
      case 0xf0:
        break;
      case 0x67:
      case 0xf2:
      case 0xf3:
        prefixes->supported = false;
        return 0;
      default:
        if ((byte & 0xf0) != 0x40) {
          prefixes->rex = rex;
          return byte;
        }
        prefixes->rex = byte;
    }
    if (!reader->ok()) return 0;
  }
}

// The address of a memory operand without its segment base: Intel SDM volume 2A, section 2.1.5 and table 2-5. For
// RIP-relative operands `*relative` is set and the address counts from the end of the instruction.
uint64_t ReadAddress(CodeReader* reader, uint8_t mod_rm, uint8_t rex, const uint64_t (&general)[16], bool* relative) {
  const uint8_t mod = mod_rm >> 6;
  const uint8_t rm = mod_rm & 7;
  uint64_t address = 0;
  bool wide = mod == 2;
  if (rm == 4) {
    const uint8_t sib = reader->Byte();
    const uint8_t base = sib & 7;
    const uint8_t index = ((sib >> 3) & 7) | ((rex & 2) << 2);
    if (index != 4) address += general[index] << (sib >> 6);
    if (base == 5 && mod == 0) {
      wide = true;
    } else {
      address += general[base | ((rex & 1) << 3)];
    }
  } else if (rm == 5 && mod == 0) {
    *relative = true;
    wide = true;
  } else {
    address = general[rm | ((rex & 1) << 3)];
  }
  if (wide) return address + static_cast<uint64_t>(reader->Displacement(4));
  if (mod == 1) return address + static_cast<uint64_t>(reader->Displacement(1));
  return address;
}

}  // namespace

bool EmulateCmpxchg16b(const uint8_t* code, size_t length, OperandRegisters* registers, const MemoryAt& memory) {
  CodeReader reader(code, length);
  Prefixes prefixes;
  if (ReadPrefixes(&reader, *registers, &prefixes) != 0x0f || !prefixes.supported) return false;
  if (reader.Byte() != 0xc7 || (prefixes.rex & 8) == 0) return false;
  const uint8_t mod_rm = reader.Byte();
  if (((mod_rm >> 3) & 7) != 1 || (mod_rm >> 6) == 3) return false;
  bool relative = false;
  uint64_t address = ReadAddress(&reader, mod_rm, prefixes.rex, registers->general, &relative);
  if (!reader.ok()) return false;
  const uint64_t next = registers->rip + reader.position();
  if (relative) address += next;
  address += prefixes.segment_base;
  if (address % kOperandSize != 0) return false;
  uint8_t* operand = memory(address, kOperandSize);
  if (operand == nullptr) return false;

  uint64_t* general = registers->general;
  uint64_t value[2];
  std::memcpy(value, operand, sizeof value);
  if (value[0] == general[kRax] && value[1] == general[kRdx]) {
    const uint64_t replacement[2] = {general[kRbx], general[kRcx]};
    std::memcpy(operand, replacement, sizeof replacement);
    registers->rflags |= kZeroFlag;
  } else {
    general[kRax] = value[0];
    general[kRdx] = value[1];
    registers->rflags &= ~kZeroFlag;
  }
  registers->rip = next;
  return true;
}

}  // namespace penumbra
