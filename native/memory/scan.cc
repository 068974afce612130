#include "memory/scan.h"

#include <string.h>

#include <algorithm>

namespace penumbra {

namespace {

constexpr uint64_t kWindow = 256 << 10;

// Searches a stream of bytes that arrive in pieces, each at the address where the one before it ended or at a new one.
class StreamSearch {
 public:
  StreamSearch(const uint8_t* needle, size_t length, size_t limit, std::vector<uint64_t>* hits)
      : needle_(needle), length_(length), limit_(limit), hits_(hits), window_(kWindow + length) {}

  bool full() const { return hits_->size() >= limit_; }

  // Where the next `size` bytes are to be put before Take(size).
  uint8_t* Room(uint64_t address) {
    if (address != address_ + used_) used_ = 0;
    if (used_ == 0) address_ = address;
    return window_.data() + used_;
  }

  void Take(uint64_t size) {
    used_ += size;
    const uint8_t* at = window_.data();
    const uint8_t* const end = at + used_;
    while (!full()) {
      const void* hit = memmem(at, static_cast<size_t>(end - at), needle_, length_);
      if (hit == nullptr) break;
      at = static_cast<const uint8_t*>(hit);
      hits_->push_back(address_ + static_cast<uint64_t>(at - window_.data()));
      ++at;
    }
    // The last bytes may be the beginning of a match.
    const uint64_t kept = std::min<uint64_t>(used_, length_ - 1);
    memmove(window_.data(), end - kept, kept);
    address_ += used_ - kept;
    used_ = kept;
  }

  // Of what ends at `end`, the first address at which a match could still begin.
  uint64_t NextBefore(uint64_t end) const { return address_ + used_ == end ? address_ : end; }

 private:
  const uint8_t* needle_;
  size_t length_;
  size_t limit_;
  std::vector<uint64_t>* hits_;
  std::vector<uint8_t> window_;
  uint64_t address_ = 0;
  uint64_t used_ = 0;
};

void FindInRun(const GuestRam& ram, const GuestRam::Run& run, const uint8_t* needle, size_t length, uint64_t to,
               size_t limit, std::vector<uint64_t>* hits) {
  if (const uint8_t* host = ram.At(run.gpa, run.size)) {
    for (uint64_t at = 0; run.size - at >= length && hits->size() < limit; ++at) {
      const void* hit = memmem(host + at, run.size - at, needle, length);
      if (hit == nullptr) return;
      at = static_cast<uint64_t>(static_cast<const uint8_t*>(hit) - host);
      if (run.gpa + at >= to) return;
      hits->push_back(run.gpa + at);
    }
    return;
  }
  StreamSearch search(needle, length, limit, hits);
  for (uint64_t at = 0; at < run.size && !search.full(); at += kWindow) {
    const uint64_t size = std::min(kWindow, run.size - at);
    if (!ram.Copy(run.gpa + at, search.Room(run.gpa + at), size)) return;
    search.Take(size);
  }
  while (!hits->empty() && hits->back() >= to) hits->pop_back();
}

}  // namespace

std::vector<uint64_t> FindBytes(const GuestRam& ram, const uint8_t* needle, size_t length, uint64_t from, uint64_t to,
                                size_t limit) {
  std::vector<uint64_t> hits;
  if (length == 0 || from >= to) return hits;
  // A match may begin or end in zeros that were never written, and end behind `to`.
  const uint64_t margin = (length + kPageMask) & ~kPageMask;
  const uint64_t end = to + margin < to ? ~uint64_t{0} : to + margin;
  const bool only_zeros = std::all_of(needle, needle + length, [](uint8_t byte) { return byte == 0; });
  for (uint64_t at = from; at < to;) {
    const uint64_t left = ram.Left(at);
    if (left == 0) {
      const uint64_t gap = ram.Gap(at);
      if (gap >= to - at) break;
      at += gap;
      continue;
    }
    const uint64_t region_end = std::min(end, at + left);
    const std::vector<GuestRam::Run> runs =
        only_zeros ? std::vector<GuestRam::Run>{{at, region_end - at}} : ram.FindPopulated(at, region_end);
    uint64_t searched = at;
    for (size_t i = 0; i < runs.size() && hits.size() < limit; ++i) {
      // Begins before the run, but not where another run's search has been.
      const uint64_t begin = std::max(searched, runs[i].gpa - std::min(margin, runs[i].gpa - at));
      uint64_t stop = std::min(region_end, runs[i].gpa + runs[i].size + margin);
      while (i + 1 < runs.size() && runs[i + 1].gpa <= stop + margin) {
        ++i;
        stop = std::min(region_end, runs[i].gpa + runs[i].size + margin);
      }
      FindInRun(ram, {begin, stop - begin}, needle, length, to, limit, &hits);
      searched = stop;
    }
    at += left;
  }
  return hits;
}

VirtualHits FindVirtual(const GuestRam& ram, const AddressSpace& space, const uint8_t* needle, size_t length,
                        uint64_t from, uint64_t to, size_t limit, uint64_t budget) {
  VirtualHits found{{}, to, 0};
  if (length == 0 || limit == 0) return found;
  StreamSearch search(needle, length, limit, &found.addresses);
  // A match that begins before `to` may end behind it.
  const uint64_t beyond = to == 0 || to + (length - 1) < to ? 0 : to + (length - 1);
  uint64_t cut = 0;
  const uint64_t end = VisitExtents(ram, space, from, beyond, [&](const Extent& extent) {
    for (uint64_t at = 0; at < extent.size;) {
      if (search.full() || found.searched >= budget) {
        cut = extent.address + at;
        return false;
      }
      const uint64_t size = std::min(kWindow, extent.size - at);
      uint8_t* const room = search.Room(extent.address + at);
      if (!ram.Copy(extent.gpa + at, room, size)) break;
      search.Take(size);
      found.searched += size;
      at += size;
    }
    return true;
  });
  while (to != 0 && !found.addresses.empty() && found.addresses.back() >= to) found.addresses.pop_back();
  if (search.full() && !found.addresses.empty()) {
    found.next = found.addresses.back() + 1;
  } else if (end != beyond) {
    found.next = search.NextBefore(cut != 0 ? cut : end);
  }
  return found;
}

}  // namespace penumbra
