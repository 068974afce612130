// A copy of guest RAM that is made page by page when it is touched: for RAM that cannot be mapped copy-on-write.
#ifndef PENUMBRA_NATIVE_MEMORY_LAZY_COPY_H_
#define PENUMBRA_NATIVE_MEMORY_LAZY_COPY_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "memory/fault_range.h"
#include "memory/guest_ram.h"
#include "memory/mapping.h"
#include "memory/userfault.h"

namespace penumbra {

/// Every page touched is a copy of our own from then on, also one that was only read: it must be refreshed or given
/// back when the guest has run. One thread at a time may call the members; touching is not limited.
class LazyCopy final : public FaultHandler {
 public:
  /// `ram` must outlive it. Throws Error PERMISSION, UNSUPPORTED, ENGINE.
  LazyCopy(const GuestRam& ram, Touch touch);
  ~LazyCopy() override;

  /// Memory for a region of the guest's RAM. Before the first touch. Throws Error ENGINE.
  uint8_t* Add(uint64_t gpa, uint64_t size);

  /// Gives the pages beyond the first `keep_limit` back.
  void Trim(size_t keep_limit);

  /// Copies the guest's present content over all pages held.
  void Refresh();

  /// Copies all pages that may hold something else than zeros; returns the bytes copied.
  uint64_t CopyAll();

  /// Gives all pages back.
  void DropAll();

  /// Pages held. Whoever was let go on with a page finds it counted.
  size_t page_count() const;

  /// Throws Error GUEST_GONE when a page was touched that the guest's RAM did not have any more; it read as zeros.
  void RequireWhole() const;

  bool OnFault(uint64_t address) noexcept override;

 private:
  struct Region {
    uint64_t gpa;
    uint64_t pages_before;  ///< in the regions before it
    Mapping memory;
    std::unique_ptr<FaultRange> range;
  };

  Region* Holding(uint64_t address) noexcept;
  uint64_t Make(const Region& region, uint64_t offset, const uint8_t* from, uint64_t size);
  void Lock() const noexcept;
  void Unlock() const noexcept;
  void SetCount(size_t count);
  // `page` is a number as in the list.
  const Region& RegionOf(uint64_t page) const;
  static uint8_t* HostIn(const Region& region, uint64_t page);
  static uint64_t GpaIn(const Region& region, uint64_t page);
  void GiveBack(std::vector<uint32_t> pages);

  const GuestRam& ram_;
  Touch touch_;
  std::vector<Region> regions_;
  uint64_t pages_ = 0;
  // Numbers of the pages held, in the order of their making. Written in a signal handler, so nothing is allocated then.
  Mapping list_;
  uint32_t* held_ = nullptr;
  size_t count_ = 0;
  /// Held while a page is made and noted, and while `count_` is looked at. A signal handler may wait for it.
  mutable std::atomic_flag filling_ = ATOMIC_FLAG_INIT;
  std::atomic<bool> incomplete_{false};
  alignas(kPageSize) uint8_t buffer_[kPageSize];
  // Goes first: its thread may still be noting the last page when whoever touched that one runs on.
  Userfault userfault_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_LAZY_COPY_H_
