// Searching guest-physical memory for bytes.
#ifndef PENUMBRA_NATIVE_MEMORY_SCAN_H_
#define PENUMBRA_NATIVE_MEMORY_SCAN_H_

#include <cstdint>
#include <vector>

#include "memory/region_table.h"

namespace penumbra {

/// Guest-physical addresses in [from, to) at which `needle` starts, in order, at most `limit`. A match never
/// crosses the end of a region.
std::vector<uint64_t> FindBytes(const RegionTable& memory, const uint8_t* needle, size_t length, uint64_t from,
                                uint64_t to, size_t limit);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_SCAN_H_
