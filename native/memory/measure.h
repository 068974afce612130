// What guest memory costs, measured natively: for `npm run bench`.
#ifndef PENUMBRA_NATIVE_MEMORY_MEASURE_H_
#define PENUMBRA_NATIVE_MEMORY_MEASURE_H_

#include <cstdint>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/virtual_reader.h"

namespace penumbra {

struct WordCost {
  double ns;  ///< for each word
  uint64_t hits;
  uint64_t misses;
  uint64_t sum;  ///< of the words, so that they are really read
};

/// Reads a word from each address by VirtualReader::Load, in a loop.
WordCost MeasureWords(const GuestRam& ram, const AddressSpace& space, const std::vector<uint64_t>& addresses);

struct PageCost {
  double read_ns;  ///< a scattered read of all pages into one buffer
  double copy_ns;  ///< memcpy of the same pages, from where they are mapped; 0 where they are not
  uint64_t bytes;
};

/// The best of `rounds` of each. Translations are not known beforehand.
PageCost MeasurePages(const GuestRam& ram, const AddressSpace& space, const std::vector<uint64_t>& pages, int rounds);

/// Nanoseconds for the first touch of each of these guest-physical pages in a private copy made for it.
std::vector<double> MeasureTouches(const GuestRam& ram, uint64_t scratch_gpa, const std::vector<uint64_t>& pages);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_MEASURE_H_
