// The copy-on-write copy of guest RAM in which a shadow runs.
#ifndef PENUMBRA_NATIVE_MEMORY_PRIVATE_RAM_H_
#define PENUMBRA_NATIVE_MEMORY_PRIVATE_RAM_H_

#include <array>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/lazy_copy.h"
#include "memory/mapping.h"
#include "memory/region_table.h"

namespace penumbra {

/// MAP_PRIVATE mappings of the regions of a GuestRam, or copies made page by page where that cannot be, plus one region
/// of scratch memory that the guest does not have. Pages that were written are private; the others follow the live
/// guest, so the whole is one instant only while the guest stands still.
class PrivateRam {
 public:
  /// `scratch_gpa` must lie above all RAM. `touch` says whether the kernel will touch this memory as well (a KVM
  /// engine). Throws Error BAD_ARGUMENT, ENGINE, PERMISSION, UNSUPPORTED.
  PrivateRam(const GuestRam& ram, uint64_t scratch_gpa, uint64_t scratch_size, Touch touch = Touch::kUserCode);
  ~PrivateRam();
  PrivateRam(const PrivateRam&) = delete;
  PrivateRam& operator=(const PrivateRam&) = delete;

  /// RAM and scratch, both writable.
  const RegionTable& table() const { return table_; }
  /// The guest's own RAM, as it is now.
  const GuestRam& live() const { return ram_; }
  uint64_t scratch_gpa() const { return scratch_gpa_; }
  uint8_t* scratch() const { return scratch_.data(); }

  /// Looks up which pages became private since the last call (slow: asks the host kernel; meant for when the
  /// guest runs again). Keeps at most `keep_limit` of them to be refreshed and gives the others back; of pages copied
  /// on touch, which includes those only read, several times as many.
  void CollectPrivatePages(size_t keep_limit);

  /// At which pages with overlays Refresh looks for changes.
  enum class Look { kAll, kOneInTurn };

  /// Copies the guest's present content over every private page that CollectPrivatePages found. When the one page that
  /// is looked at has changed, so may have the others.
  void Refresh(Look look = Look::kAll);

  /// Puts up to kMostOverlaid bytes, which lie within one page, over what the guest has at `gpa`. Refresh leaves the
  /// page as it is where the guest's, and all of this one but what lies over it, have not changed: code that is copied
  /// anew has to be translated anew by a processor that is emulated. Otherwise the overlays of that page are gone,
  /// which overlay_losses() counts. Returns false where that cannot be: they are gone with every Refresh.
  bool Overlay(uint64_t gpa, const uint8_t* bytes, size_t size);
  static constexpr size_t kMostOverlaid = 16;
  /// Changes when the overlays of some page are gone.
  uint64_t overlay_losses() const { return overlay_losses_; }

  /// Makes every page private that holds anything, so that the guest may run on without changing what is seen here.
  /// Pages that the guest never wrote stay as they are: nothing in them means anything to its kernel. Returns the
  /// bytes copied. DropAll undoes it.
  uint64_t CopyAll();

  /// Gives all private pages back.
  void DropAll();

  /// Private pages known, and pages copied on touch.
  size_t page_count() const { return private_pages_.size() + (lazy_ ? lazy_->page_count() : 0); }

  /// Throws Error GUEST_GONE when what was read here may not have been the guest's: its RAM was taken away meanwhile.
  void RequireWhole() const;

 private:
  struct Fork {
    uint64_t gpa;
    Mapping memory;
  };

  /// What lies over some bytes of a page.
  struct Patch {
    size_t offset;
    size_t size;
    std::array<uint8_t, kMostOverlaid> guest;
    std::array<uint8_t, kMostOverlaid> own;
  };

  /// Forgets the overlays of pages that are given back.
  void KeepOverlaysOfPrivatePages();
  bool LookAtOne();
  bool StandsAsOverlaid(const std::pair<const uint64_t, std::vector<Patch>>& overlaid) const;

  const GuestRam& ram_;
  std::vector<Fork> forks_;
  std::optional<LazyCopy> lazy_;
  Mapping scratch_;
  uint64_t scratch_gpa_;
  RegionTable table_;
  std::vector<uint64_t> private_pages_;
  std::unordered_map<uint64_t, std::vector<Patch>> overlays_;  ///< by page, in the order of their offsets
  uint64_t overlay_losses_ = 0;
  size_t turn_ = 0;  ///< of the page with overlays to be looked at next, by their number
  int pagemap_fd_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_PRIVATE_RAM_H_
