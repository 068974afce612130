// Guest RAM made for tests: the same bytes behind every way in which penumbra can get at a guest's memory.
#ifndef PENUMBRA_NATIVE_TEST_MADE_RAM_H_
#define PENUMBRA_NATIVE_TEST_MADE_RAM_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/region_table.h"

namespace penumbra::test {

struct MadeRegion {
  uint64_t gpa;
  uint64_t pages;
};

/// Regions in one memfd, in the order given, and this process as the hypervisor that has it mapped.
class MadeRam {
 public:
  explicit MadeRam(std::vector<MadeRegion> regions);
  ~MadeRam();
  MadeRam(const MadeRam&) = delete;
  MadeRam& operator=(const MadeRam&) = delete;

  int fd() const { return fd_; }
  uint64_t size() const { return size_; }
  const std::vector<MadeRegion>& regions() const { return regions_; }

  /// Writable, as the guest sees it.
  const RegionTable& table() const { return table_; }
  uint8_t* At(uint64_t gpa) const { return table_.At(gpa, 1); }
  void Store(uint64_t gpa, uint64_t word) const;

  std::vector<RamDescriptor> Mapped() const;
  std::vector<RamDescriptor> Copied() const;
  std::vector<RamDescriptor> Foreign() const;
  /// The first region mapped, the next foreign, and so on.
  std::vector<RamDescriptor> Mixed() const;

  /// Takes the last region away, as a hypervisor does with memory that is unplugged.
  void Unplug();

 private:
  uint64_t OffsetOf(size_t index) const;

  std::vector<MadeRegion> regions_;
  uint64_t size_ = 0;
  int fd_;
  int memory_fd_;
  uint8_t* host_;
  RegionTable table_;
};

}  // namespace penumbra::test

#endif  // PENUMBRA_NATIVE_TEST_MADE_RAM_H_
