// The guest's RAM, seen live and read-only.
#ifndef PENUMBRA_NATIVE_MEMORY_GUEST_RAM_H_
#define PENUMBRA_NATIVE_MEMORY_GUEST_RAM_H_

#include <cstdint>
#include <vector>

#include "memory/mapping.h"
#include "memory/region_table.h"

namespace penumbra {

/// Where a piece of guest-physical memory is kept.
struct RamDescriptor {
  uint64_t gpa;
  uint64_t size;
  int fd;
  uint64_t offset;
};

/// Shared read-only mappings of all RAM regions. Keeps duplicates of the descriptors' fds.
class GuestRam {
 public:
  /// Throws Error BAD_ARGUMENT, PERMISSION, ENGINE.
  explicit GuestRam(std::vector<RamDescriptor> descriptors);
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  const std::vector<RamDescriptor>& descriptors() const { return descriptors_; }
  const RegionTable& table() const { return table_; }

  /// Copies [gpa, gpa + length), which may span adjoining regions. Throws Error BAD_ADDRESS outside RAM.
  void Read(uint64_t gpa, void* out, uint64_t length) const;

 private:
  std::vector<RamDescriptor> descriptors_;
  std::vector<Mapping> mappings_;
  RegionTable table_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_GUEST_RAM_H_
