// x86-64 page tables, 4 and 5 levels (Intel SDM volume 3, section 4.5; AMD APM volume 2, section 5.3).
#ifndef PENUMBRA_NATIVE_MEMORY_PAGE_WALK_H_
#define PENUMBRA_NATIVE_MEMORY_PAGE_WALK_H_

#include <cstdint>
#include <vector>

#include "memory/region_table.h"

namespace penumbra {

inline constexpr uint64_t kTableAddressMask = 0x000ffffffffff000;

enum class WalkResult {
  kMapped,
  kNotPresent,    ///< an entry without the present bit
  kNotCanonical,  ///< the address cannot be translated at all
  kReserved,      ///< the large-page bit where no large page can be
  kOutsideRam,    ///< a table lies outside RAM
};

struct Translation {
  WalkResult result = WalkResult::kNotPresent;
  uint64_t gpa = 0;        ///< guest-physical address of the byte asked for
  uint64_t page_size = 0;  ///< 4 KiB, 2 MiB or 1 GiB; when not mapped: size of the hole the entry covers
  bool mapped() const { return result == WalkResult::kMapped; }
};

/// A page-table root as CR3 gives it and the number of levels (4, or 5 with CR4.LA57).
struct AddressSpace {
  uint64_t root;
  int levels;
};

/// Translates one address. Never throws and reads at most `levels` words: tables that loop end by construction.
Translation Translate(const RegionTable& memory, const AddressSpace& space, uint64_t address);

/// Copies [address, address + length) through the page tables. Returns the number of bytes copied before the
/// first byte that is not readable.
uint64_t ReadVirtual(const RegionTable& memory, const AddressSpace& space, uint64_t address, void* out,
                     uint64_t length);

/// The counterpart of ReadVirtual for private memory. Returns the number of bytes written.
uint64_t WriteVirtual(const RegionTable& memory, const AddressSpace& space, uint64_t address, const void* bytes,
                      uint64_t length);

/// Host address of [address, address + length) where it is contiguous in one region, otherwise nullptr.
uint8_t* VirtualAt(const RegionTable& memory, const AddressSpace& space, uint64_t address, uint64_t length);

struct Extent {
  uint64_t address;
  uint64_t gpa;
  uint64_t size;
};

/// Mapped runs of [from, to), joined where guest-physical memory goes on too, at most `limit` of them.
std::vector<Extent> FindExtents(const RegionTable& memory, const AddressSpace& space, uint64_t from, uint64_t to,
                                size_t limit);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_PAGE_WALK_H_
