// Memory that only the shadow has: page tables, a page of code, and the user buffers of the calls.
#ifndef PENUMBRA_NATIVE_SHADOW_SCRATCH_H_
#define PENUMBRA_NATIVE_SHADOW_SCRATCH_H_

#include <cstdint>
#include <vector>

#include "memory/page_walk.h"
#include "memory/private_ram.h"

namespace penumbra {

/// One 2 MiB window, mapped by 4 KiB pages at a free user slot of an address space.
class Scratch {
 public:
  static constexpr uint64_t kSize = 2 << 20;
  static constexpr uint64_t kCodeOffset = 4 * kPageSize;   ///< supervisor, executable
  static constexpr uint64_t kDataOffset = 8 * kPageSize;   ///< user, writable
  static constexpr uint64_t kDataSize = kSize - kDataOffset;
  /// The calls return to the last bytes of the code page.
  static constexpr uint64_t kReturnOffset = kCodeOffset + kPageSize - 16;

  explicit Scratch(const PrivateRam& memory) : memory_(memory) {}

  /// Hooks the window into the top-level table of `space`. Throws Error CORRUPT when no slot is free.
  /// Returns the window's guest-virtual address.
  uint64_t Map(const AddressSpace& space);

  uint8_t* code() const { return memory_.scratch() + kCodeOffset; }
  uint8_t* data() const { return memory_.scratch() + kDataOffset; }

 private:
  const PrivateRam& memory_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_SCRATCH_H_
