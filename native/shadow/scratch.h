// Memory that only the shadow has: page tables, code, and what goes in and out of the calls.
#ifndef PENUMBRA_NATIVE_SHADOW_SCRATCH_H_
#define PENUMBRA_NATIVE_SHADOW_SCRATCH_H_

#include <cstdint>
#include <vector>

#include "memory/page_walk.h"
#include "memory/private_ram.h"

namespace penumbra {

/// One window at a free user slot of an address space. Its first 2 MiB are mapped by 4 KiB pages, the rest by 2 MiB
/// pages; only payload and data can be reached from user mode. Nothing is taken from the host before it is used.
class Scratch {
 public:
  static constexpr uint64_t kUnit = 2 << 20;
  static constexpr uint64_t kCodeOffset = 8 * kPageSize;     ///< the recipe's code, executable
  static constexpr uint64_t kProgramOffset = 9 * kPageSize;  ///< the batch runner and what it runs, executable
  static constexpr uint64_t kProgramSize = 2 * kPageSize;
  static constexpr uint64_t kStateOffset = 11 * kPageSize;  ///< what runner and host tell each other
  static constexpr uint64_t kStateSize = kPageSize;
  // The large areas begin at different places within 2 MiB: their first pages are the ones most used, and translation
  // buffers that are indexed by the low bits of a page's number have to keep all of them.
  static constexpr uint64_t kBatchOffset = 1 * kUnit + 20 * kPageSize;  ///< records of the batch, values of its steps
  static constexpr uint64_t kOutsOffset = 5 * kUnit + 28 * kPageSize;   ///< records of what the calls gave back
  static constexpr uint64_t kUserOffset = 7 * kUnit;                    ///< from here on user, writable
  static constexpr uint64_t kPayloadOffset = kUserOffset + 36 * kPageSize;  ///< what the calls are given
  static constexpr uint64_t kDataOffset = 11 * kUnit + 44 * kPageSize;      ///< what they give back
  static constexpr uint64_t kSize = 15 * kUnit;
  static constexpr uint64_t kBatchSize = kOutsOffset - kBatchOffset;
  static constexpr uint64_t kOutsSize = kUserOffset - kOutsOffset;
  static constexpr uint64_t kPayloadSize = kDataOffset - kPayloadOffset;
  static constexpr uint64_t kDataSize = kSize - kDataOffset;
  /// The calls return to the last bytes of the code page.
  static constexpr uint64_t kReturnOffset = kCodeOffset + kPageSize - 16;

  explicit Scratch(const PrivateRam& memory) : memory_(memory) {}

  /// Hooks the window into the top-level table of `space`. Throws Error CORRUPT when no slot is free.
  /// Returns the window's guest-virtual address.
  uint64_t Map(const AddressSpace& space);

  /// Host address of what lies at that offset of the window.
  uint8_t* At(uint64_t offset) const { return memory_.scratch() + offset; }
  uint8_t* code() const { return At(kCodeOffset); }

 private:
  void WriteTables(int levels);

  const PrivateRam& memory_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_SCRATCH_H_
