#include "memory/lazy_copy.h"

#include <sys/mman.h>

#include <algorithm>

#include "error.h"

namespace penumbra {

namespace {

constexpr uint64_t kChunk = 1 << 20;

}  // namespace

LazyCopy::LazyCopy(const GuestRam& ram, Touch touch) : ram_(ram), touch_(touch), userfault_(touch, this) {}

LazyCopy::~LazyCopy() = default;

uint8_t* LazyCopy::Add(uint64_t gpa, uint64_t size) {
  Region region{gpa, pages_, Mapping(Mapping::Kind::kAnonymous, -1, 0, size), nullptr};
  uint8_t* const start = region.memory.data();
  userfault_.Register(start, size);
  if (touch_ == Touch::kUserCode) region.range = std::make_unique<FaultRange>(start, size, this);
  pages_ += size / kPageSize;
  list_ = Mapping(Mapping::Kind::kAnonymous, -1, 0, (pages_ * sizeof *held_ + kPageMask) & ~kPageMask);
  held_ = reinterpret_cast<uint32_t*>(list_.data());
  regions_.push_back(std::move(region));
  return start;
}

bool LazyCopy::OnFault(uint64_t address) noexcept {
  const uint64_t page = address & ~kPageMask;
  Region* const region = Holding(page);
  if (region == nullptr) return false;
  const uint64_t offset = page - reinterpret_cast<uint64_t>(region->memory.data());
  Lock();
  Userfault::Made made;
  if (ram_.Copy(region->gpa + offset, buffer_, kPageSize)) {
    made = userfault_.Copy(page, buffer_);
  } else {
    incomplete_.store(true);
    made = userfault_.Zero(page);
  }
  if (made == Userfault::Made::kNow) {
    held_[count_++] = static_cast<uint32_t>(region->pages_before + offset / kPageSize);
  }
  Unlock();
  return made != Userfault::Made::kFailed;
}

void LazyCopy::Lock() const noexcept {
  while (filling_.test_and_set(std::memory_order_acquire)) {
  }
}

void LazyCopy::Unlock() const noexcept { filling_.clear(std::memory_order_release); }

size_t LazyCopy::page_count() const {
  Lock();
  const size_t count = count_;
  Unlock();
  return count;
}

void LazyCopy::SetCount(size_t count) {
  Lock();
  count_ = count;
  Unlock();
}

void LazyCopy::Trim(size_t keep_limit) {
  const size_t count = page_count();
  if (count > keep_limit) {
    GiveBack({held_ + keep_limit, held_ + count});
    SetCount(keep_limit);
  }
  // In order they are neighbours more often, which makes a refresh cheaper.
  std::sort(held_, held_ + std::min(count, keep_limit));
}

void LazyCopy::Refresh() {
  const size_t count = page_count();
  std::vector<GuestRam::Piece> pieces;
  pieces.reserve(count);
  const Region* last_region = nullptr;
  for (size_t i = 0; i < count; ++i) {
    const Region& region = RegionOf(held_[i]);
    if (&region == last_region && held_[i] == held_[i - 1] + 1) {
      pieces.back().length += kPageSize;
    } else {
      pieces.push_back({GpaIn(region, held_[i]), HostIn(region, held_[i]), kPageSize});
    }
    last_region = &region;
  }
  // What is gone shows at its next touch.
  if (ram_.CopyScattered(pieces) < pieces.size()) DropAll();
}

uint64_t LazyCopy::CopyAll() {
  uint64_t copied = 0;
  std::vector<uint8_t> chunk(kChunk);
  for (const Region& region : regions_) {
    for (const GuestRam::Run& run : ram_.FindPopulated(region.gpa, region.gpa + region.memory.size())) {
      for (uint64_t at = 0; at < run.size; at += kChunk) {
        const uint64_t size = std::min(kChunk, run.size - at);
        if (!ram_.Copy(run.gpa + at, chunk.data(), size)) incomplete_.store(true);
        copied += Make(region, run.gpa + at - region.gpa, chunk.data(), size);
      }
    }
  }
  return copied;
}

// Makes those pages of [offset, offset + size) of a region that are not there yet; returns their bytes.
uint64_t LazyCopy::Make(const Region& region, uint64_t offset, const uint8_t* from, uint64_t size) {
  const uint64_t start = reinterpret_cast<uint64_t>(region.memory.data()) + offset;
  uint64_t made = 0;
  for (uint64_t at = 0; at < size;) {
    Lock();
    const uint64_t copied = userfault_.CopyRun(start + at, from + at, size - at);
    for (uint64_t page = 0; page < copied; page += kPageSize) {
      held_[count_++] = static_cast<uint32_t>(region.pages_before + (offset + at + page) / kPageSize);
    }
    Unlock();
    made += copied;
    // A page that is there already is passed over.
    at += copied == 0 ? kPageSize : copied;
  }
  return made;
}

void LazyCopy::DropAll() {
  for (const Region& region : regions_) madvise(region.memory.data(), region.memory.size(), MADV_DONTNEED);
  SetCount(0);
  incomplete_.store(false);
}

void LazyCopy::RequireWhole() const {
  if (incomplete_.load()) throw Error("GUEST_GONE", "RAM that the guest had is gone: it was unplugged, or QEMU ended");
}

LazyCopy::Region* LazyCopy::Holding(uint64_t address) noexcept {
  for (Region& region : regions_) {
    if (address - reinterpret_cast<uint64_t>(region.memory.data()) < region.memory.size()) return &region;
  }
  return nullptr;
}

const LazyCopy::Region& LazyCopy::RegionOf(uint64_t page) const {
  return *std::find_if(regions_.rbegin(), regions_.rend(),
                       [page](const Region& region) { return region.pages_before <= page; });
}

uint8_t* LazyCopy::HostIn(const Region& region, uint64_t page) {
  return region.memory.data() + (page - region.pages_before) * kPageSize;
}

uint64_t LazyCopy::GpaIn(const Region& region, uint64_t page) {
  return region.gpa + (page - region.pages_before) * kPageSize;
}

void LazyCopy::GiveBack(std::vector<uint32_t> pages) {
  std::sort(pages.begin(), pages.end());
  for (size_t i = 0; i < pages.size();) {
    const Region& region = RegionOf(pages[i]);
    size_t end = i + 1;
    while (end < pages.size() && pages[end] == pages[end - 1] + 1 && &RegionOf(pages[end]) == &region) ++end;
    // Safe: the range lies inside our own private mapping; the next touch reads the guest's page again.
    madvise(HostIn(region, pages[i]), (end - i) * kPageSize, MADV_DONTNEED);
    i = end;
  }
}

}  // namespace penumbra
