#include "test/reference_walk.h"

#include <optional>

namespace penumbra::test {

namespace {

bool Bit(uint64_t word, int number) { return (word / (uint64_t{1} << number)) % 2 == 1; }

// Bits `high` to `low` of a word, left where they are.
uint64_t Bits(uint64_t word, int high, int low) {
  uint64_t kept = 0;
  for (int number = low; number <= high; ++number) {
    if (Bit(word, number)) kept += uint64_t{1} << number;
  }
  return kept;
}

std::optional<uint64_t> Entry(const RegionTable& ram, uint64_t address) {
  uint64_t word = 0;
  for (int byte = 7; byte >= 0; --byte) {
    const uint8_t* const at = ram.At(address + static_cast<uint64_t>(byte), 1);
    if (at == nullptr) return std::nullopt;
    word = word * 256 + *at;
  }
  return word;
}

ReferenceWalk Page(uint64_t entry, uint64_t linear, int offset_bits) {
  ReferenceWalk walk{ReferenceWalk::End::kPage};
  walk.physical = Bits(entry, 51, offset_bits) + Bits(linear, offset_bits - 1, 0);
  walk.page_size = uint64_t{1} << offset_bits;
  walk.entry = entry;
  return walk;
}

// `level` 5 is the PML5 table, 4 the PML4 table, 3 the page-directory-pointer table, 2 the page directory, 1 the page
// table.
ReferenceWalk Level(const RegionTable& ram, uint64_t table, int level, uint64_t linear) {
  const int lowest = 12 + 9 * (level - 1);
  const uint64_t index = Bits(linear, lowest + 8, lowest) >> lowest;
  const std::optional<uint64_t> entry = Entry(ram, table + index * 8);
  const auto end = [&](ReferenceWalk::End how) {
    return ReferenceWalk{how, 0, uint64_t{1} << lowest, entry.value_or(0)};
  };
  if (!entry) return end(ReferenceWalk::End::kNoTable);
  if (!Bit(*entry, 0)) return end(ReferenceWalk::End::kAbsent);
  if (level == 1) return Page(*entry, linear, 12);
  if (Bit(*entry, 7)) {
    if (level == 2) return Bits(*entry, 20, 13) != 0 ? end(ReferenceWalk::End::kReserved) : Page(*entry, linear, 21);
    if (level == 3) return Bits(*entry, 29, 13) != 0 ? end(ReferenceWalk::End::kReserved) : Page(*entry, linear, 30);
    return end(ReferenceWalk::End::kReserved);
  }
  return Level(ram, Bits(*entry, 51, 12), level - 1, linear);
}

}  // namespace

ReferenceWalk WalkByTheBook(const RegionTable& ram, uint64_t cr3, int levels, uint64_t linear) {
  const int sign = levels == 5 ? 56 : 47;
  for (int number = sign; number < 64; ++number) {
    if (Bit(linear, number) != Bit(linear, sign)) return {ReferenceWalk::End::kBadAddress};
  }
  return Level(ram, Bits(cr3, 51, 12), levels, linear);
}

const uint8_t* ByteByTheBook(const RegionTable& ram, uint64_t cr3, int levels, uint64_t linear) {
  const ReferenceWalk walk = WalkByTheBook(ram, cr3, levels, linear);
  return walk.end == ReferenceWalk::End::kPage ? ram.At(walk.physical, 1) : nullptr;
}

}  // namespace penumbra::test
