#include "memory/scan.h"

#include <string.h>

#include <algorithm>

namespace penumbra {

std::vector<uint64_t> FindBytes(const RegionTable& memory, const uint8_t* needle, size_t length, uint64_t from,
                                uint64_t to, size_t limit) {
  std::vector<uint64_t> hits;
  if (length == 0) return hits;
  for (const MappedRegion& region : memory.regions()) {
    const uint64_t begin = std::max(from, region.gpa);
    const uint64_t end = std::min(to, region.gpa + region.size);
    uint64_t at = begin;
    while (at < end && end - at >= length && hits.size() < limit) {
      const uint8_t* start = region.host + (at - region.gpa);
      const void* hit = memmem(start, end - at, needle, length);
      if (hit == nullptr) break;
      at += static_cast<uint64_t>(static_cast<const uint8_t*>(hit) - start);
      hits.push_back(at);
      at += 1;
    }
  }
  return hits;
}

}  // namespace penumbra
