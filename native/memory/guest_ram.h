// The guest's RAM, seen live and read-only.
#ifndef PENUMBRA_NATIVE_MEMORY_GUEST_RAM_H_
#define PENUMBRA_NATIVE_MEMORY_GUEST_RAM_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "memory/mapping.h"
#include "memory/region_table.h"
#include "process/foreign_memory.h"

namespace penumbra {

/// Where a piece of guest-physical memory is kept.
struct RamDescriptor {
  uint64_t gpa;
  uint64_t size;
  int fd;           ///< the file to map, or /proc/PID/mem of the hypervisor
  uint64_t offset;  ///< in the file, or the hypervisor's address
  /// `fd` is the hypervisor's memory, not a file that could be mapped.
  bool foreign = false;
  /// A private mapping would not do (a huge page would be copied for every page touched): a fork of this memory is
  /// copied page by page.
  bool copied = false;
  /// Pages that nobody has written to are zeros, so a search may pass over them.
  bool sparse = false;
  int pid = 0;  ///< the hypervisor's, of a foreign region
};

/// Regions that are mapped, and regions that only the hypervisor's process has. Every read sees what the guest has at
/// that moment. Any thread may read.
class GuestRam {
 public:
  struct Piece {
    uint64_t gpa;
    void* out;
    uint64_t length;
  };
  struct Run {
    uint64_t gpa;
    uint64_t size;
  };

  /// Keeps duplicates of the descriptors' fds. Throws Error BAD_ARGUMENT, PERMISSION, ENGINE.
  explicit GuestRam(std::vector<RamDescriptor> descriptors);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  /// In the order in which they were given.
  const std::vector<RamDescriptor>& descriptors() const { return descriptors_; }

  /// Where a byte of guest memory is.
  struct Place {
    uint64_t address;  ///< in this process, or in the hypervisor's
    uint64_t left;     ///< bytes to the end of the region, 0 outside RAM
    bool foreign;
  };
  Place Find(uint64_t gpa) const {
    for (const Region& region : regions_) {
      const uint64_t offset = gpa - region.gpa;
      if (offset < region.size) return {region.address + offset, region.size - offset, region.foreign};
    }
    return {0, 0, false};
  }

  /// Host address of [gpa, gpa + length) when all of it lies in one mapped region, otherwise nullptr.
  const uint8_t* At(uint64_t gpa, uint64_t length) const {
    const Place place = Find(gpa);
    return place.left >= length && place.left > 0 && !place.foreign ? reinterpret_cast<const uint8_t*>(place.address)
                                                                    : nullptr;
  }

  /// Bytes from `gpa` to the end of its region, 0 outside RAM.
  uint64_t Left(uint64_t gpa) const { return Find(gpa).left; }

  /// Bytes from `gpa`, which lies outside RAM, to the next region, or to the end of all addresses.
  uint64_t Gap(uint64_t gpa) const {
    for (const Region& region : regions_) {
      if (region.gpa > gpa) return region.gpa - gpa;
    }
    return ~gpa;
  }

  /// Reads a little-endian word; false when it is not wholly inside one region.
  template <typename T>
  bool Load(uint64_t gpa, T* value) const {
    const Place place = Find(gpa);
    if (place.left < sizeof(T)) return false;
    if (place.foreign) return foreign_->Read(place.address, value, sizeof(T));
    std::memcpy(value, reinterpret_cast<const void*>(place.address), sizeof(T));
    return true;
  }

  /// The 512 entries of the page table at `gpa`, which is page-aligned: the guest's own, or a copy in `buffer`; nullptr
  /// outside RAM.
  const uint64_t* Table(uint64_t gpa, uint64_t* buffer) const {
    const Place place = Find(gpa);
    if (place.left < kPageSize) return nullptr;
    if (!place.foreign) return reinterpret_cast<const uint64_t*>(place.address);
    return foreign_->Read(place.address, buffer, kPageSize) ? buffer : nullptr;
  }

  /// Copies [gpa, gpa + length), which may span adjoining regions; false where not all of it could be read.
  /// Async-signal-safe.
  bool Copy(uint64_t gpa, void* out, uint64_t length) const noexcept;

  /// The same. Throws Error BAD_ADDRESS outside RAM, GUEST_GONE when the memory was there and is not any more.
  void Read(uint64_t gpa, void* out, uint64_t length) const;

  /// Copies one piece after the other and returns how many were copied before the first that could not be. A piece lies
  /// within one region.
  size_t CopyScattered(std::span<const Piece> pieces) const;

  /// Runs of [from, to) that may hold something else than zeros, in order and within one region each.
  std::vector<Run> FindPopulated(uint64_t from, uint64_t to) const;

  /// The hypervisor's memory, where some region needs it.
  const ForeignMemory* foreign() const { return foreign_.get(); }

  /// Throws Error GUEST_GONE when the file behind the RAM lost its end.
  void RequireIntact() const;
  /// The same; throws it also when the hypervisor's memory cannot be read any more. Takes a system call.
  void RequireReachable() const;

 private:
  struct Region {
    uint64_t gpa;
    uint64_t size;
    uint64_t address;
    bool foreign;
    size_t descriptor;
  };

  void Add(const RamDescriptor& descriptor);

  std::vector<RamDescriptor> descriptors_;
  std::vector<Mapping> mappings_;
  std::unique_ptr<ForeignMemory> foreign_;
  std::vector<Region> regions_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_GUEST_RAM_H_
