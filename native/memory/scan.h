// Searching guest memory for bytes.
#ifndef PENUMBRA_NATIVE_MEMORY_SCAN_H_
#define PENUMBRA_NATIVE_MEMORY_SCAN_H_

#include <cstdint>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/page_walk.h"

namespace penumbra {

/// Guest-physical addresses in [from, to) at which `needle` starts, in order, at most `limit`. A match never
/// crosses the end of a region.
std::vector<uint64_t> FindBytes(const GuestRam& ram, const uint8_t* needle, size_t length, uint64_t from, uint64_t to,
                                size_t limit);

struct VirtualHits {
  std::vector<uint64_t> addresses;
  /// Where to go on with the search: `to` when it is over.
  uint64_t next;
  uint64_t searched;  ///< bytes that were there
};

/// Guest-virtual addresses in [from, to) at which `needle` starts, in order, at most `limit`. A match may span pages
/// that are neighbours in virtual memory only. Ends after about `budget` bytes. `to` 0 stands for 2^64.
VirtualHits FindVirtual(const GuestRam& ram, const AddressSpace& space, const uint8_t* needle, size_t length,
                        uint64_t from, uint64_t to, size_t limit, uint64_t budget);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_SCAN_H_
