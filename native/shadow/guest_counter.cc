#include "shadow/guest_counter.h"

#include <algorithm>

namespace penumbra {

namespace {

// struct pvclock_vcpu_time_info: nanoseconds = system_time + ((counter - timestamp) << shift) * multiplier >> 32.
struct ClockPage {
  uint32_t version;
  uint32_t padding;
  uint64_t timestamp;
  uint64_t system_time;
  uint32_t multiplier;
  int8_t shift;
  uint8_t flags;
  uint8_t padding_too[2];
};
static_assert(sizeof(ClockPage) == 32);

constexpr int kMostShift = 31;
// An idle guest has hardly any clock interrupts.
constexpr uint64_t kLongestIdle = 1'000'000'000;

std::optional<uint64_t> CounterAt(const ClockPage& page, uint64_t nanoseconds) {
  if (page.multiplier == 0 || page.shift > kMostShift || page.shift < -kMostShift) return std::nullopt;
  const uint64_t elapsed = nanoseconds > page.system_time ? nanoseconds - page.system_time : 0;
  unsigned __int128 ticks = (static_cast<unsigned __int128>(elapsed) << 32) / page.multiplier;
  if (page.shift > 0) {
    ticks >>= page.shift;
  } else {
    ticks <<= -page.shift;
  }
  return page.timestamp + static_cast<uint64_t>(ticks);
}

}  // namespace

std::optional<CounterRange> ReadCounter(const CounterRule& rule, const KernelReader& kernel, uint64_t per_cpu_base) {
  uint64_t clock;
  uint64_t last;
  if (!kernel.TryRead(kernel.Resolve(rule.clock, per_cpu_base, 0), &clock) ||
      !kernel.TryRead(kernel.Resolve(rule.last, per_cpu_base, 0), &last)) {
    return std::nullopt;
  }
  if (std::find(rule.counter_clocks.begin(), rule.counter_clocks.end(), clock) != rule.counter_clocks.end()) {
    return CounterRange{last, last};
  }
  if (rule.page_clock == 0 || clock != rule.page_clock) return std::nullopt;
  uint64_t address;
  ClockPage page;
  if (!kernel.TryRead(kernel.Resolve(rule.page, per_cpu_base, 0), &address) || !kernel.TryRead(address, &page)) {
    return std::nullopt;
  }
  const std::optional<uint64_t> from = CounterAt(page, last);
  const std::optional<uint64_t> to = CounterAt(page, last + kLongestIdle);
  if (!from || !to || *to < *from) return std::nullopt;
  return CounterRange{*from, *to};
}

}  // namespace penumbra
