// The copy-on-write copy of guest RAM in which a shadow runs.
#ifndef PENUMBRA_NATIVE_MEMORY_PRIVATE_RAM_H_
#define PENUMBRA_NATIVE_MEMORY_PRIVATE_RAM_H_

#include <cstdint>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/mapping.h"
#include "memory/region_table.h"

namespace penumbra {

/// MAP_PRIVATE mappings of the regions of a GuestRam plus one region of scratch memory that the guest does not
/// have. Pages that were written are private; the others follow the live guest, so the whole is one instant only
/// while the guest stands still.
class PrivateRam {
 public:
  /// `scratch_gpa` must lie above all RAM. Throws Error BAD_ARGUMENT, ENGINE.
  PrivateRam(const GuestRam& ram, uint64_t scratch_gpa, uint64_t scratch_size);
  ~PrivateRam();
  PrivateRam(const PrivateRam&) = delete;
  PrivateRam& operator=(const PrivateRam&) = delete;

  /// RAM and scratch, both writable.
  const RegionTable& table() const { return table_; }
  /// The guest's own RAM, as it is now.
  const RegionTable& live() const { return ram_.table(); }
  uint64_t scratch_gpa() const { return scratch_gpa_; }
  uint8_t* scratch() const { return scratch_.data(); }

  /// Looks up which pages became private since the last call (slow: asks the host kernel; meant for when the
  /// guest runs again). Keeps at most `keep_limit` of them to be refreshed and gives the others back.
  void CollectPrivatePages(size_t keep_limit);

  /// Copies the guest's present content over every private page that CollectPrivatePages found.
  void Refresh();

  /// Makes every page private that holds anything, so that the guest may run on without changing what is seen here.
  /// Pages that the guest never wrote stay as they are: nothing in them means anything to its kernel. Returns the
  /// bytes copied. DropAll undoes it.
  uint64_t CopyAll();

  /// Gives all private pages back.
  void DropAll();

  /// Guest-physical addresses of the private pages known.
  const std::vector<uint64_t>& private_pages() const { return private_pages_; }

 private:
  const GuestRam& ram_;
  std::vector<Mapping> mappings_;
  Mapping scratch_;
  uint64_t scratch_gpa_;
  RegionTable table_;
  std::vector<uint64_t> private_pages_;
  int pagemap_fd_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_PRIVATE_RAM_H_
