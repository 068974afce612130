#include "memory/measure.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "memory/private_ram.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count());
}

}  // namespace

WordCost MeasureWords(const GuestRam& ram, const AddressSpace& space, const std::vector<uint64_t>& addresses) {
  VirtualReader reader(ram, space);
  uint64_t sum = 0;
  const Clock::time_point begin = Clock::now();
  for (const uint64_t address : addresses) {
    uint64_t word = 0;
    reader.Load(address, &word);
    sum += word;
  }
  const double ns = Since(begin) / static_cast<double>(std::max<size_t>(1, addresses.size()));
  const VirtualReader::Counts counts = reader.counts();
  return {ns, counts.hits, counts.misses, sum};
}

PageCost MeasurePages(const GuestRam& ram, const AddressSpace& space, const std::vector<uint64_t>& pages, int rounds) {
  VirtualReader reader(ram, space);
  std::vector<VirtualReader::Request> requests;
  for (const uint64_t page : pages) requests.push_back({page, kPageSize});
  std::vector<uint64_t> lengths(pages.size());
  std::vector<uint8_t> out(pages.size() * kPageSize);
  std::vector<const uint8_t*> mapped;
  for (const uint64_t page : pages) mapped.push_back(reader.At(page, kPageSize));
  const bool all_mapped = std::find(mapped.begin(), mapped.end(), nullptr) == mapped.end();
  PageCost cost{0, 0, out.size()};
  for (int round = 0; round < rounds; ++round) {
    reader.Forget();
    const Clock::time_point begin = Clock::now();
    reader.ReadScattered(requests, out.data(), lengths.data());
    const double read = Since(begin);
    cost.read_ns = round == 0 ? read : std::min(cost.read_ns, read);
    if (!all_mapped) continue;
    const Clock::time_point again = Clock::now();
    for (size_t i = 0; i < mapped.size(); ++i) std::memcpy(out.data() + i * kPageSize, mapped[i], kPageSize);
    const double copy = Since(again);
    cost.copy_ns = round == 0 ? copy : std::min(cost.copy_ns, copy);
  }
  return cost;
}

std::vector<double> MeasureTouches(const GuestRam& ram, uint64_t scratch_gpa, const std::vector<uint64_t>& pages) {
  const PrivateRam copy(ram, scratch_gpa, kPageSize);
  std::vector<double> costs;
  for (const uint64_t page : pages) {
    const volatile uint8_t* const byte = copy.table().At(page, kPageSize);
    if (byte == nullptr) continue;
    const Clock::time_point begin = Clock::now();
    static_cast<void>(*byte);
    costs.push_back(Since(begin));
  }
  return costs;
}

}  // namespace penumbra
