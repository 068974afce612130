#include "memory/region_table.h"

#include <algorithm>

#include "error.h"

namespace penumbra {

void RegionTable::Add(const MappedRegion& region) {
  if (region.size == 0 || (region.gpa & kPageMask) != 0 || (region.size & kPageMask) != 0 ||
      region.gpa + region.size < region.gpa) {
    throw Error("BAD_ARGUMENT", "a RAM region must be whole pages and must not wrap around", region.gpa);
  }
  const auto next = std::find_if(regions_.begin(), regions_.end(),
                                 [&](const MappedRegion& other) { return other.gpa >= region.gpa; });
  const bool hits_next = next != regions_.end() && next->gpa < region.gpa + region.size;
  const bool hits_previous = next != regions_.begin() && std::prev(next)->gpa + std::prev(next)->size > region.gpa;
  if (hits_next || hits_previous) throw Error("BAD_ARGUMENT", "RAM regions overlap", region.gpa);
  regions_.insert(next, region);
}

}  // namespace penumbra
