// Compares EmulateCmpxchg16b with the processor itself: random encodings of the instruction, with random registers and
// memory, are executed by both.
#include "engine/cmpxchg16b.h"

#include <asm/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "test/check.h"

namespace penumbra::test {

namespace {

constexpr size_t kCodeSize = 4096;
constexpr size_t kOperands = 64;
constexpr uint64_t kArithmeticFlags = 0x8d5;
constexpr int kRsp = 4;

// One page of code, then where it leaves the registers, then the operands.
struct Arena {
  uint8_t code[kCodeSize];
  uint64_t registers[16];
  uint64_t flags;
  uint64_t saved_stack;
  alignas(16) uint64_t operands[2 * kOperands];
};

class Code {
 public:
  explicit Code(Arena* arena) : arena_(arena) {}

  void Put(std::initializer_list<uint8_t> bytes) { Put(bytes.begin(), bytes.size()); }
  void Put(const void* bytes, size_t size) {
    std::memcpy(arena_->code + at_, bytes, size);
    at_ += size;
  }
  void LoadImmediate(int reg, uint64_t value) {
    Put({static_cast<uint8_t>(0x48 | (reg >> 3)), static_cast<uint8_t>(0xb8 | (reg & 7))});
    Put(&value, sizeof value);
  }
  /// mov [rip + ...], reg or, with opcode 0x8b, the other way.
  void MoveMemory(uint8_t opcode, int reg, const uint64_t* where) {
    Put({static_cast<uint8_t>(0x48 | ((reg >> 3) << 2)), opcode, static_cast<uint8_t>(0x05 | ((reg & 7) << 3))});
    const int32_t distance =
        static_cast<int32_t>(reinterpret_cast<const uint8_t*>(where) - (arena_->code + at_ + sizeof(int32_t)));
    Put(&distance, sizeof distance);
  }
  size_t size() const { return at_; }

 private:
  Arena* arena_;
  size_t at_ = 0;
};

constexpr uint8_t kStore = 0x89;
constexpr uint8_t kLoad = 0x8b;

// Runs the instruction between loading and storing all registers.
void ExecuteNatively(Arena* arena, const std::vector<uint8_t>& instruction, const OperandRegisters& before) {
  Code code(arena);
  code.Put({0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57});  // push rbx rbp r12 r13 r14 r15
  code.LoadImmediate(0, before.rflags);
  code.Put({0x50, 0x9d});  // push rax; popfq
  code.MoveMemory(kStore, kRsp, &arena->saved_stack);
  for (int reg = 0; reg < 16; ++reg) code.LoadImmediate(reg, before.general[reg]);
  code.Put(instruction.data(), instruction.size());
  for (int reg = 0; reg < 16; ++reg) code.MoveMemory(kStore, reg, &arena->registers[reg]);
  code.MoveMemory(kLoad, kRsp, &arena->saved_stack);
  code.Put({0x9c, 0x58});  // pushfq; pop rax
  code.MoveMemory(kStore, 0, &arena->flags);
  code.Put({0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3});
  // Safe: the arena is executable, and the code above gives back every register that a function must keep.
  reinterpret_cast<void (*)()>(arena->code)();
}

// Where the instruction begins in what ExecuteNatively makes, for operands relative to RIP.
size_t InstructionOffset() {
  constexpr size_t kPrologue = 10 + 10 + 2 + 7;
  return kPrologue + 16 * 10;
}

class Generator {
 public:
  Generator(Arena* arena, uint64_t fs_base, uint64_t gs_base) : arena_(arena), fs_base_(fs_base), gs_base_(gs_base) {}

  uint64_t operator()(uint64_t below) { return random_.Below(below); }
  uint64_t Any() { return random_.Word(); }

  /// An instruction whose operand is one of the arena's, and the registers that make it so.
  std::vector<uint8_t> Next(OperandRegisters* registers, uint64_t** operand) {
    for (uint64_t& value : registers->general) value = Any();
    registers->fs_base = fs_base_;
    registers->gs_base = gs_base_;
    registers->rflags = 0x202 | (Any() & kArithmeticFlags);
    *operand = &arena_->operands[2 * (*this)(kOperands)];
    uint64_t address = reinterpret_cast<uint64_t>(*operand);

    std::vector<uint8_t> code;
    if ((*this)(2) == 0) code.push_back(0xf0);
    if ((*this)(8) == 0) code.push_back(0x66);
    if ((*this)(8) == 0) code.push_back(0x3e);
    switch ((*this)(4)) {
      case 0:
        code.push_back(0x64);
        address -= fs_base_;
        break;
      case 1:
        code.push_back(0x65);
        address -= gs_base_;
        break;
    }
    if ((*this)(8) == 0) code.push_back(0x4f);  // a REX prefix that does not count, for another one follows
    const uint8_t extension = static_cast<uint8_t>((*this)(4));
    const uint8_t mod = static_cast<uint8_t>((*this)(3));
    const uint8_t rm = static_cast<uint8_t>((*this)(8));
    code.insert(code.end(),
                {static_cast<uint8_t>(0x48 | extension), 0x0f, 0xc7, static_cast<uint8_t>(mod << 6 | 8 | rm)});
    PutAddress(mod, rm, extension, address, registers, &code);
    return code;
  }

 private:
  void PutAddress(uint8_t mod, uint8_t rm, uint8_t extension, uint64_t address, OperandRegisters* registers,
                  std::vector<uint8_t>* code) {
    uint64_t* general = registers->general;
    const int64_t displacement = mod == 1 ? static_cast<int8_t>(Any()) : static_cast<int32_t>(Any());
    const auto put = [&](int64_t value, size_t size) {
      for (size_t i = 0; i < size; ++i) code->push_back(static_cast<uint8_t>(value >> (8 * i)));
    };
    const size_t size = mod == 0 ? 0 : mod == 1 ? 1 : 4;
    const uint64_t moved = mod == 0 ? 0 : static_cast<uint64_t>(displacement);
    if (rm == 4) {
      const uint8_t scale = static_cast<uint8_t>((*this)(4));
      const uint8_t index = static_cast<uint8_t>((*this)(8));
      const int index_register = index | ((extension & 2) << 2);
      const uint8_t base = static_cast<uint8_t>((*this)(8));
      const int base_register = base | ((extension & 1) << 3);
      code->push_back(static_cast<uint8_t>(scale << 6 | index << 3 | base));
      if (base == 5 && mod == 0) {
        // No base: the index alone cannot reach any address; take a displacement and what is missing from the index.
        if (index_register == 4) {
          code->clear();
          return;
        }
        const int32_t rest = static_cast<int32_t>(address & ((1 << scale) - 1));
        general[index_register] = (address - static_cast<uint64_t>(rest)) >> scale;
        if ((general[index_register] << scale) + rest != address) code->clear();
        put(rest, 4);
        return;
      }
      if (index_register == base_register) {
        code->clear();
        return;
      }
      const uint64_t indexed = index_register == 4 ? 0 : general[index_register] << scale;
      general[base_register] = address - moved - indexed;
    } else if (rm == 5 && mod == 0) {
      const uint64_t end = reinterpret_cast<uint64_t>(arena_->code) + InstructionOffset() + code->size() + 4;
      const int64_t distance = static_cast<int64_t>(address - end);
      if (distance != static_cast<int32_t>(distance)) {
        code->clear();
        return;
      }
      put(distance, 4);
      return;
    } else {
      general[rm | ((extension & 1) << 3)] = address - moved;
    }
    put(displacement, size);
  }

  Random random_;
  Arena* arena_;
  uint64_t fs_base_, gs_base_;
};

bool Compare(Arena* arena, const std::vector<uint8_t>& instruction, const OperandRegisters& before, uint64_t* operand) {
  const uint64_t old[2] = {operand[0], operand[1]};
  ExecuteNatively(arena, instruction, before);
  const uint64_t native[2] = {operand[0], operand[1]};
  std::memcpy(operand, old, sizeof old);
  OperandRegisters after = before;
  after.rip = reinterpret_cast<uint64_t>(arena->code) + InstructionOffset();
  const uint64_t start = after.rip;
  const MemoryAt memory = [&](uint64_t address, size_t size) {
    const bool inside = address >= reinterpret_cast<uint64_t>(arena->operands) &&
                        address + size <= reinterpret_cast<uint64_t>(arena->operands + 2 * kOperands);
    return inside ? reinterpret_cast<uint8_t*>(address) : nullptr;
  };
  return EmulateCmpxchg16b(instruction.data(), instruction.size(), &after, memory) &&
         after.rip == start + instruction.size() && std::memcmp(operand, native, sizeof native) == 0 &&
         std::memcmp(after.general, arena->registers, sizeof after.general) == 0 && after.rflags == arena->flags;
}

// What is not the instruction, or cut off, or has an operand that cannot be used, must change nothing.
bool RefusesOthers(Generator& random, const std::vector<uint8_t>& instruction, const OperandRegisters& registers) {
  const MemoryAt nowhere = [](uint64_t, size_t) { return nullptr; };
  std::vector<uint8_t> bytes = instruction;
  const size_t cut = random(bytes.size());
  OperandRegisters after = registers;
  bool refused = !EmulateCmpxchg16b(bytes.data(), cut, &after, nowhere) &&
                 !EmulateCmpxchg16b(bytes.data(), bytes.size(), &after, nowhere);
  bytes[random(bytes.size())] = static_cast<uint8_t>(random.Any());
  refused = refused && !EmulateCmpxchg16b(bytes.data(), bytes.size(), &after, nowhere);
  return refused && std::memcmp(&after, &registers, sizeof after) == 0;
}

std::string InHex(const std::vector<uint8_t>& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const uint8_t byte : bytes) text += {kDigits[byte >> 4], kDigits[byte & 15]};
  return text;
}

}  // namespace

TEST("cmpxchg16b: emulated as the processor does it") {
  void* mapping = mmap(nullptr, sizeof(Arena), PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mapping != MAP_FAILED);
  Arena* arena = static_cast<Arena*>(mapping);
  uint64_t fs_base = 0;
  const uint64_t gs_base = 0x123456789a0;
  CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base) == 0 && syscall(SYS_arch_prctl, ARCH_SET_GS, gs_base) == 0);
  Generator random(arena, fs_base, gs_base);
  const uint64_t count = 20000 * CaseFactor();
  for (uint64_t compared = 0; compared < count;) {
    OperandRegisters registers{};
    uint64_t* operand = nullptr;
    const std::vector<uint8_t> instruction = random.Next(&registers, &operand);
    if (instruction.empty()) continue;
    const bool equal = random(2) == 0;
    operand[0] = equal ? registers.general[0] : random.Any();
    operand[1] = equal || random(2) == 0 ? registers.general[2] : random.Any();
    CHECK_IN(InHex(instruction), Compare(arena, instruction, registers, operand));
    CHECK_IN(InHex(instruction), RefusesOthers(random, instruction, registers));
    ++compared;
  }
  munmap(mapping, sizeof(Arena));
}

}  // namespace penumbra::test
