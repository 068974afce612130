#include "redirect/clock_page.h"

#include <elf.h>
#include <sys/syscall.h>

#include <cstring>
#include <string_view>
#include <vector>

namespace penumbra {

namespace {

constexpr size_t kMostBytes = 16384;  // the vDSO has two pages
constexpr size_t kMostSymbols = 256;

struct Replacement {
  std::string_view name;
  uint32_t number;
};

// arch/x86/entry/vdso/vdso.lds.S; each has an alias without the prefix, at the same address.
constexpr Replacement kReplacements[] = {
    {"__vdso_clock_gettime", SYS_clock_gettime},
    {"__vdso_gettimeofday", SYS_gettimeofday},
    {"__vdso_time", SYS_time},
    {"__vdso_clock_getres", SYS_clock_getres},
    {"__vdso_getcpu", SYS_getcpu},
};

template <typename Item>
const Item* At(const std::vector<uint8_t>& image, uint64_t offset) {
  if (offset > image.size() || sizeof(Item) > image.size() - offset) return nullptr;
  return reinterpret_cast<const Item*>(image.data() + offset);
}

bool ReplaceFunction(const ToolMemory& memory, uint64_t address, uint32_t number) {
  // endbr64; mov eax, number; syscall; ret
  uint8_t code[] = {0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0, 0, 0, 0, 0x0f, 0x05, 0xc3};
  std::memcpy(code + 5, &number, sizeof number);
  return memory.Write(address, code, sizeof code);
}

}  // namespace

bool RedirectClockPage(const ToolMemory& memory, uint64_t base) {
  std::vector<uint8_t> image(kMostBytes);
  while (!memory.Read(base, image.data(), image.size())) {
    if (image.size() <= 4096) return false;
    image.resize(image.size() - 4096);
  }
  const Elf64_Ehdr* header = At<Elf64_Ehdr>(image, 0);
  if (std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return false;
  uint64_t symbols = 0, strings = 0;
  uint64_t dynamic = 0;
  for (int i = 0; i < header->e_phnum; ++i) {
    const Elf64_Phdr* segment = At<Elf64_Phdr>(image, header->e_phoff + uint64_t(i) * sizeof(Elf64_Phdr));
    if (segment != nullptr && segment->p_type == PT_DYNAMIC) dynamic = segment->p_offset;
  }
  for (uint64_t at = dynamic; dynamic != 0; at += sizeof(Elf64_Dyn)) {
    const Elf64_Dyn* entry = At<Elf64_Dyn>(image, at);
    if (entry == nullptr || entry->d_tag == DT_NULL) break;
    if (entry->d_tag == DT_SYMTAB) symbols = entry->d_un.d_ptr;
    if (entry->d_tag == DT_STRTAB) strings = entry->d_un.d_ptr;
  }
  if (symbols == 0 || strings == 0) return false;
  size_t replaced = 0;
  for (size_t i = 0; i < kMostSymbols; ++i) {
    const Elf64_Sym* symbol = At<Elf64_Sym>(image, symbols + i * sizeof(Elf64_Sym));
    // The string table follows the symbols.
    if (symbol == nullptr || symbols + i * sizeof(Elf64_Sym) >= strings) break;
    if (strings + symbol->st_name >= image.size()) continue;
    const char* name = reinterpret_cast<const char*>(image.data() + strings + symbol->st_name);
    const std::string_view text(name, strnlen(name, image.size() - strings - symbol->st_name));
    for (const Replacement& replacement : kReplacements) {
      if (text != replacement.name) continue;
      if (!ReplaceFunction(memory, base + symbol->st_value, replacement.number)) return false;
      ++replaced;
    }
  }
  return replaced > 0;
}

}  // namespace penumbra
