// Guest-physical address space as a set of host mappings. Knows nothing of where the bytes come from and never maps
// anything itself.
#ifndef PENUMBRA_NATIVE_MEMORY_REGION_TABLE_H_
#define PENUMBRA_NATIVE_MEMORY_REGION_TABLE_H_

#include <cstdint>
#include <cstring>
#include <vector>

namespace penumbra {

inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t kPageMask = kPageSize - 1;

/// A contiguous piece of guest-physical memory and where it is mapped in this process.
struct MappedRegion {
  uint64_t gpa;
  uint64_t size;
  uint8_t* host;
};

/// Ordered, non-overlapping regions with lookup by guest-physical address.
class RegionTable {
 public:
  /// Throws Error BAD_ARGUMENT when regions are unaligned, wrap around or overlap.
  void Add(const MappedRegion& region);

  const std::vector<MappedRegion>& regions() const { return regions_; }

  /// Host address of [gpa, gpa + length) when all of it lies in one region, otherwise nullptr.
  uint8_t* At(uint64_t gpa, uint64_t length) const {
    for (const MappedRegion& region : regions_) {
      const uint64_t offset = gpa - region.gpa;
      if (offset < region.size) return length <= region.size - offset ? region.host + offset : nullptr;
    }
    return nullptr;
  }

  /// Bytes from `gpa` to the end of its region, 0 outside all of them.
  uint64_t Left(uint64_t gpa) const {
    for (const MappedRegion& region : regions_) {
      const uint64_t offset = gpa - region.gpa;
      if (offset < region.size) return region.size - offset;
    }
    return 0;
  }

  /// Bytes from `gpa`, which lies outside, to the next region, or to the end of all addresses.
  uint64_t Gap(uint64_t gpa) const {
    for (const MappedRegion& region : regions_) {
      if (region.gpa > gpa) return region.gpa - gpa;
    }
    return ~gpa;
  }

  /// Reads an aligned or unaligned little-endian word; false when it is not wholly inside one region.
  template <typename T>
  bool Load(uint64_t gpa, T* value) const {
    const uint8_t* host = At(gpa, sizeof(T));
    if (host == nullptr) return false;
    std::memcpy(value, host, sizeof(T));
    return true;
  }

  /// The 512 entries of the page table at `gpa`, which is page-aligned; nullptr outside. `buffer` is for memory that is
  /// not mapped.
  const uint64_t* Table(uint64_t gpa, uint64_t*) const {
    // Safe: regions, and so the tables in them, are page-aligned on the host.
    return reinterpret_cast<const uint64_t*>(At(gpa, kPageSize));
  }

 private:
  std::vector<MappedRegion> regions_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_REGION_TABLE_H_
