#include "hypervisor/register_layout.h"

#include <cstring>
#include <optional>

#include "error.h"

namespace penumbra {

namespace {

struct Register {
  const char* name;
  size_t size;   // bytes, in the packet and in VcpuState
  size_t field;  // offset in VcpuState
};

constexpr size_t Gpr(size_t index) { return offsetof(VcpuState, gpr) + index * sizeof(uint64_t); }

constexpr Register kRegisterTable[] = {
    {"rax", 8, Gpr(0)},
    {"rbx", 8, Gpr(1)},
    {"rcx", 8, Gpr(2)},
    {"rdx", 8, Gpr(3)},
    {"rsi", 8, Gpr(4)},
    {"rdi", 8, Gpr(5)},
    {"rbp", 8, Gpr(6)},
    {"rsp", 8, Gpr(7)},
    {"r8", 8, Gpr(8)},
    {"r9", 8, Gpr(9)},
    {"r10", 8, Gpr(10)},
    {"r11", 8, Gpr(11)},
    {"r12", 8, Gpr(12)},
    {"r13", 8, Gpr(13)},
    {"r14", 8, Gpr(14)},
    {"r15", 8, Gpr(15)},
    {"rip", 8, offsetof(VcpuState, rip)},
    {"eflags", 4, offsetof(VcpuState, rflags)},
    {"cs", 4, offsetof(VcpuState, cs)},
    {"ss", 4, offsetof(VcpuState, ss)},
    {"ds", 4, offsetof(VcpuState, ds)},
    {"es", 4, offsetof(VcpuState, es)},
    {"fs", 4, offsetof(VcpuState, fs)},
    {"gs", 4, offsetof(VcpuState, gs)},
    {"fs_base", 8, offsetof(VcpuState, fs_base)},
    {"gs_base", 8, offsetof(VcpuState, gs_base)},
    {"k_gs_base", 8, offsetof(VcpuState, kernel_gs_base)},
    {"cr0", 8, offsetof(VcpuState, cr0)},
    {"cr2", 8, offsetof(VcpuState, cr2)},
    {"cr3", 8, offsetof(VcpuState, cr3)},
    {"cr4", 8, offsetof(VcpuState, cr4)},
    {"cr8", 8, offsetof(VcpuState, cr8)},
    {"efer", 8, offsetof(VcpuState, efer)},
};

constexpr size_t kAbsent = SIZE_MAX;

std::string WithoutComments(std::string_view text) {
  std::string result;
  for (;;) {
    const size_t open = text.find("<!--");
    result += text.substr(0, open);
    if (open == std::string_view::npos) return result;
    const size_t close = text.find("-->", open);
    if (close == std::string_view::npos) return result;
    text.remove_prefix(close + 3);
  }
}

// `element` is the text between '<' and '>'.
std::optional<std::string_view> Attribute(std::string_view element, std::string_view name) {
  const std::string key = " " + std::string(name) + "=\"";
  const size_t at = element.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  element.remove_prefix(at + key.size());
  const size_t quote = element.find('"');
  if (quote == std::string_view::npos) return std::nullopt;
  return element.substr(0, quote);
}

size_t Decimal(std::string_view text) {
  size_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9' || value > 1000000) {
      throw Error("STUB", "the target description has a malformed number");
    }
    value = value * 10 + static_cast<size_t>(c - '0');
  }
  return value;
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Little-endian bytes in hexadecimal, as the protocol sends x86 registers.
uint64_t DecodeRegister(std::string_view hex, const char* name) {
  uint64_t value = 0;
  for (size_t i = hex.size(); i >= 2; i -= 2) {
    const int high = HexDigit(hex[i - 2]);
    const int low = HexDigit(hex[i - 1]);
    if (high < 0 || low < 0) throw Error("STUB", std::string("the gdbstub does not give register ") + name);
    value = value << 8 | static_cast<uint64_t>(high << 4 | low);
  }
  return value;
}

}  // namespace

RegisterLayout::RegisterLayout(std::string_view description) {
  static_assert(std::size(kRegisterTable) == kRegisters);
  offsets_.fill(kAbsent);
  const std::string text = WithoutComments(description);
  size_t offset = 0;
  size_t number = 0;
  for (size_t at = text.find("<reg "); at != std::string::npos; at = text.find("<reg ", at + 1)) {
    const size_t end = text.find('>', at);
    if (end == std::string::npos) break;
    const std::string_view element = std::string_view(text).substr(at, end - at);
    const auto name = Attribute(element, "name");
    const auto bits = Attribute(element, "bitsize");
    if (!name || !bits) throw Error("STUB", "the target description has a register without name or size");
    const auto explicit_number = Attribute(element, "regnum");
    if (explicit_number && Decimal(*explicit_number) != number) {
      throw Error("STUB", "the target description numbers register " + std::string(*name) + " out of order");
    }
    const size_t size = Decimal(*bits) / 8;
    for (size_t i = 0; i < kRegisters; i++) {
      if (*name != kRegisterTable[i].name || offsets_[i] != kAbsent) continue;
      if (size != kRegisterTable[i].size) {
        throw Error("STUB", "register " + std::string(*name) + " has " + std::string(*bits) +
                                " bits; penumbra knows 64-bit x86 guests only (qemu-system-x86_64)");
      }
      offsets_[i] = offset;
    }
    offset += size;
    number++;
  }
  for (size_t i = 0; i < kRegisters; i++) {
    if (offsets_[i] != kAbsent) continue;
    if (!missing_.empty()) missing_ += ' ';
    missing_ += kRegisterTable[i].name;
  }
}

VcpuState RegisterLayout::Decode(std::string_view hex) const {
  VcpuState state;
  for (size_t i = 0; i < kRegisters; i++) {
    const Register& reg = kRegisterTable[i];
    if (offsets_[i] == kAbsent || (offsets_[i] + reg.size) * 2 > hex.size()) {
      throw Error("STUB", std::string("the gdbstub's register reply ends before ") + reg.name);
    }
    const uint64_t value = DecodeRegister(hex.substr(offsets_[i] * 2, reg.size * 2), reg.name);
    // x86 is little-endian: the low `size` bytes of `value` are the field.
    std::memcpy(reinterpret_cast<char*>(&state) + reg.field, &value, reg.size);
  }
  return state;
}

}  // namespace penumbra
