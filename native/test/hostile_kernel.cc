#include "test/hostile_kernel.h"

#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <iterator>

namespace penumbra::test {

namespace {

/// Small enough that tens of thousands of cases take seconds; what handlers lay out lies at the window's start.
constexpr uint64_t kMostScribbled = 4096;
constexpr uint64_t kExtremes[] = {
    0,          1,          2,          15,          16,         18,         19,         20,         127,
    128,        255,        256,        4095,        4096,       4097,       0x7fff,     0xffff,     0x10000,
    0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 1ull << 40, 1ull << 47, 1ull << 62, ~0ull >> 1, 1ull << 63,
    -1ull,      -2ull,      -22ull,     -512ull,     -4095ull,   -4096ull,   -4097ull,   -100000ull,
};

}  // namespace

void HostileKernel::SetWindow(uint64_t size) {
  if (size == size_) return;
  memory_ = std::make_unique<uint8_t[]>(size);
  size_ = size;
}

uint64_t HostileKernel::Extreme() {
  const uint64_t value = kExtremes[random_->Below(std::size(kExtremes))];
  return random_->Chance(20) ? value + random_->Below(5) - 2 : value;
}

size_t HostileKernel::Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) {
  for (size_t i = 0; i < count; ++i) {
    answers[i] = Call(calls[i].number, calls[i].arguments);
    if (answers[i].failed) return i + 1;
  }
  return count;
}

GuestKernel::Answer HostileKernel::Call(uint32_t number, const uint64_t (&arguments)[6]) {
  ++calls_;
  Scribble(arguments);
  Answer answer;
  answer.value = Value(arguments);
  // Often a file that the tool has open.
  if (number == SYS_openat && random_->Chance(50)) answer.value = 500 + static_cast<int64_t>(random_->Below(4));
  const bool lists = number == SYS_getdents64 || number == SYS_getdents;
  if (lists && arguments[1] - kAddress < size_ && random_->Chance(80)) {
    uint64_t length = std::min({arguments[2], size_ - (arguments[1] - kAddress), kMostScribbled});
    PutEntries(arguments[1] - kAddress, &length);
    if (random_->Chance(80)) answer.value = static_cast<int64_t>(length);
  }
  answer.blocked = random_->Chance(5);
  answer.failed = random_->Chance(5);
  return answer;
}

// Around the lengths that were asked for lie the values that matter.
int64_t HostileKernel::Value(const uint64_t (&arguments)[6]) {
  switch (random_->Below(4)) {
    case 0:
      return static_cast<int64_t>(Extreme());
    case 1:
      return static_cast<int64_t>(random_->Word());
    case 2:
      return static_cast<int64_t>(arguments[random_->Below(6)] + random_->Below(4) - 1);
    default:
      return random_->Chance(50) ? 0 : static_cast<int64_t>(random_->Below(arguments[2] + 1));
  }
}

void HostileKernel::Scribble(const uint64_t (&arguments)[6]) {
  const uint64_t size = std::min(size_, kMostScribbled);
  if (random_->Chance(30)) {
    for (uint64_t at = 0; at + 8 <= size; at += 8) {
      const uint64_t word = random_->Word();
      std::memcpy(memory_.get() + at, &word, sizeof word);
    }
  }
  for (uint64_t i = random_->Below(12); i > 0; --i) {
    // Lengths and pointers are aligned, and mostly where an argument points.
    uint64_t at = random_->Below(size);
    const uint64_t place = arguments[random_->Below(6)] - kAddress;
    if (random_->Chance(70) && place < size_) at = place + random_->Below(96);
    at &= ~uint64_t{random_->Chance(50) ? 7u : 3u};
    const uint64_t width = random_->Chance(50) ? 8 : 4;
    if (at + width > size_) continue;
    // A length that is a little too long is the worst.
    uint64_t word = 0;
    std::memcpy(&word, memory_.get() + at, width);
    word = random_->Chance(50) ? Extreme() : word + random_->Below(64);
    std::memcpy(memory_.get() + at, &word, width);
  }
}

// Well-formed struct linux_dirent64s, but for some.
void HostileKernel::PutEntries(uint64_t offset, uint64_t* length) {
  uint64_t at = 0;
  while (at + 32 <= *length && random_->Chance(90)) {
    uint8_t* entry = memory_.get() + offset + at;
    const uint64_t room = *length - at;
    uint16_t record = static_cast<uint16_t>(std::min<uint64_t>(24 + 8 * random_->Below(4), room & ~uint64_t{7}));
    std::memset(entry, 0, record);
    std::memset(entry + 18, 'n', 1 + random_->Below(record - 19));
    if (random_->Chance(10)) entry[18 + random_->Below(record - 18)] = random_->Chance(50) ? '/' : 'x';
    const uint16_t said = random_->Chance(10) ? static_cast<uint16_t>(Extreme()) : record;
    std::memcpy(entry + 16, &said, sizeof said);
    at += record;
  }
  *length = random_->Chance(90) ? at : *length;
}

}  // namespace penumbra::test
