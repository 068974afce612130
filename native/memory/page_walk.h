// x86-64 page tables, 4 and 5 levels (Intel SDM volume 3, section 4.5; AMD APM volume 2, section 5.3).
//
// `Memory` is a RegionTable (a shadow's private memory) or a GuestRam (the live guest).
#ifndef PENUMBRA_NATIVE_MEMORY_PAGE_WALK_H_
#define PENUMBRA_NATIVE_MEMORY_PAGE_WALK_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "memory/region_table.h"

namespace penumbra {

inline constexpr uint64_t kTableAddressMask = 0x000ffffffffff000;

/// The order is that of src/target/target.ts.
enum class WalkResult {
  kMapped,
  kNotPresent,    ///< an entry without the present bit
  kNotCanonical,  ///< the address cannot be translated at all
  kReserved,      ///< a bit is set that must not be, so the CPU would fault
  kOutsideRam,    ///< a table lies outside RAM
};

struct Translation {
  WalkResult result = WalkResult::kNotPresent;
  uint64_t gpa = 0;        ///< guest-physical address of the byte asked for
  uint64_t page_size = 0;  ///< 4 KiB, 2 MiB or 1 GiB; when not mapped: size of the hole the entry covers
  uint64_t entry = 0;      ///< the last entry read
  uint64_t table = 0;      ///< guest-physical address of the table that holds it
  bool mapped() const { return result == WalkResult::kMapped; }
};

/// A page-table root as CR3 gives it and the number of levels (4, or 5 with CR4.LA57).
struct AddressSpace {
  uint64_t root;
  int levels;
};

bool IsCanonical(uint64_t address, int levels);

/// What an entry that covers 2^shift bytes says of `address`: fills in `translation` and returns true when the walk
/// ends with it.
bool Interpret(uint64_t entry, int shift, uint64_t address, Translation* translation);

/// Translates one address. Never throws and reads at most `levels` words: tables that loop end by construction.
template <typename Memory>
Translation Translate(const Memory& memory, const AddressSpace& space, uint64_t address);

/// Copies [address, address + length) through the page tables. Returns the number of bytes copied before the
/// first byte that is not readable.
template <typename Memory>
uint64_t ReadVirtual(const Memory& memory, const AddressSpace& space, uint64_t address, void* out, uint64_t length);

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

/// A walk over page tables that a guest forged could visit 2^45 entries: it ends after so many.
inline constexpr uint64_t kWalkBudget = uint64_t{1} << 26;

/// Visits the runs of [from, to) that are mapped to RAM, in order, each contiguous in guest-physical memory and within
/// one region. `to` 0 stands for 2^64. Ends when `visit` refuses one by returning false, or after `budget` entries.
/// Returns the address from which on nothing was taken, `to` when all was.
template <typename Memory>
uint64_t VisitExtents(const Memory& memory, const AddressSpace& space, uint64_t from, uint64_t to,
                      const std::function<bool(const Extent&)>& visit, uint64_t budget = kWalkBudget);

struct ExtentList {
  std::vector<Extent> extents;
  bool complete;  ///< false when there were more than `limit`, or the walk was too long
};

/// The first `limit` of them.
template <typename Memory>
ExtentList FindExtents(const Memory& memory, const AddressSpace& space, uint64_t from, uint64_t to, size_t limit);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_PAGE_WALK_H_
