// A second page table walk, written from the tables of the Intel SDM (volume 3A, 4.5.4 and figures 4-8 to 4-10, tables
// 4-14 to 4-20) and without a look at the first: slow, a bit at a time. Tests compare the two.
#ifndef PENUMBRA_NATIVE_TEST_REFERENCE_WALK_H_
#define PENUMBRA_NATIVE_TEST_REFERENCE_WALK_H_

#include <cstdint>

#include "memory/region_table.h"

namespace penumbra::test {

struct ReferenceWalk {
  enum class End { kPage, kAbsent, kBadAddress, kReserved, kNoTable };
  End end;
  uint64_t physical = 0;
  uint64_t page_size = 0;
  uint64_t entry = 0;
};

ReferenceWalk WalkByTheBook(const RegionTable& ram, uint64_t cr3, int levels, uint64_t linear);

/// Where a byte of memory is, as far as there is one; the others of its 4 KiB are beside it.
const uint8_t* ByteByTheBook(const RegionTable& ram, uint64_t cr3, int levels, uint64_t linear);

}  // namespace penumbra::test

#endif  // PENUMBRA_NATIVE_TEST_REFERENCE_WALK_H_
