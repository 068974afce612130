#include "memory/page_walk.h"

#include <algorithm>
#include <array>
#include <utility>

#include "memory/guest_ram.h"

namespace penumbra {

namespace {

constexpr uint64_t kPresent = 1;
constexpr uint64_t kLarge = 1 << 7;
// In a large page's entry bit 12 is the PAT bit; those from there to the page's size must be 0.
constexpr int kPatBit = 12;
constexpr int kLargestPage = 30;

int TopShift(const AddressSpace& space) { return space.levels == 5 ? 48 : 39; }

// Calls visit(gpa, offset into the range, size) for each piece that is contiguous in one region; returns the bytes
// visited.
template <typename Memory, typename Visit>
uint64_t ForEachPiece(const Memory& memory, const AddressSpace& space, uint64_t address, uint64_t length, Visit visit) {
  uint64_t done = 0;
  while (done < length) {
    const Translation translation = Translate(memory, space, address + done);
    if (!translation.mapped()) break;
    const uint64_t left_in_page = translation.page_size - ((address + done) & (translation.page_size - 1));
    const uint64_t size = std::min({length - done, left_in_page, memory.Left(translation.gpa)});
    if (size == 0 || !visit(translation.gpa, done, size)) break;
    done += size;
  }
  return done;
}

bool CopyOut(const RegionTable& memory, uint64_t gpa, void* out, uint64_t length) {
  std::memcpy(out, memory.At(gpa, length), length);
  return true;
}

bool CopyOut(const GuestRam& memory, uint64_t gpa, void* out, uint64_t length) { return memory.Copy(gpa, out, length); }

// One pass over the tables below a root, with what is between two calls of `visit`.
template <typename Memory>
class ExtentWalk {
 public:
  ExtentWalk(const Memory& memory, const std::function<bool(const Extent&)>& visit, uint64_t budget)
      : memory_(memory), visit_(visit), budget_(budget) {}

  // Visits what [from, last] has below a table whose entries cover 2^shift bytes; false when the walk is to end.
  bool Descend(uint64_t gpa, int shift, uint64_t from, uint64_t last) {
    const uint64_t* table = memory_.Table(gpa, buffers_[(shift - 12) / 9].data());
    if (table == nullptr) return true;
    const uint64_t covered = uint64_t{1} << shift;
    for (uint64_t at = from;;) {
      const uint64_t end = std::min(last, at | (covered - 1));
      if (budget_-- == 0) return Finish() && Stop(at);
      Translation translation;
      if (!Interpret(table[(at >> shift) & 511], shift, at, &translation)) {
        if (!Descend(translation.entry & kTableAddressMask, shift - 9, at, end)) return false;
      } else if (translation.mapped() && !Add(at, translation.gpa, end - at + 1)) {
        return false;
      }
      if (end == last) return true;
      at = end + 1;
    }
  }

  // Hands over what is left; false when it was refused.
  bool Finish() {
    const Extent extent = std::exchange(pending_, Extent{});
    return extent.size == 0 || visit_(extent) || Stop(extent.address);
  }

  uint64_t stopped_at() const { return stopped_at_; }

 private:
  bool Stop(uint64_t address) {
    stopped_at_ = address;
    return false;
  }

  // A large page may reach over several regions and the holes between them.
  bool Add(uint64_t address, uint64_t gpa, uint64_t size) {
    while (size > 0) {
      const uint64_t left = memory_.Left(gpa);
      const uint64_t piece = std::min(size, left == 0 ? memory_.Gap(gpa) : left);
      if (left != 0 && !Join({address, gpa, piece}, left)) return false;
      address += piece;
      gpa += piece;
      size -= piece;
    }
    return true;
  }

  bool Join(const Extent& next, uint64_t left) {
    const bool continues = pending_.size != 0 && pending_left_ > pending_.size &&
                           pending_.address + pending_.size == next.address && pending_.gpa + pending_.size == next.gpa;
    if (continues) {
      pending_.size += next.size;
      return true;
    }
    if (!Finish()) return false;
    pending_ = next;
    pending_left_ = left;
    return true;
  }

  const Memory& memory_;
  const std::function<bool(const Extent&)>& visit_;
  uint64_t budget_;
  Extent pending_{};
  uint64_t pending_left_ = 0;  ///< bytes from its beginning to the end of its region
  uint64_t stopped_at_ = 0;
  std::array<std::array<uint64_t, 512>, 5> buffers_;
};

}  // namespace

bool IsCanonical(uint64_t address, int levels) {
  const int unused = 64 - (levels == 5 ? 57 : 48);
  return static_cast<uint64_t>(static_cast<int64_t>(address << unused) >> unused) == address;
}

bool Interpret(uint64_t entry, int shift, uint64_t address, Translation* translation) {
  const uint64_t covered = uint64_t{1} << shift;
  translation->entry = entry;
  translation->page_size = covered;
  if ((entry & kPresent) == 0) {
    translation->result = WalkResult::kNotPresent;
    return true;
  }
  if (shift != 12) {
    if ((entry & kLarge) == 0) return false;
    const uint64_t reserved = (covered - 1) & ~((uint64_t{2} << kPatBit) - 1);
    if (shift > kLargestPage || (entry & reserved) != 0) {
      translation->result = WalkResult::kReserved;
      return true;
    }
  }
  translation->gpa = (entry & kTableAddressMask & ~(covered - 1)) | (address & (covered - 1));
  translation->result = WalkResult::kMapped;
  return true;
}

template <typename Memory>
Translation Translate(const Memory& memory, const AddressSpace& space, uint64_t address) {
  Translation translation;
  if (!IsCanonical(address, space.levels)) {
    translation.result = WalkResult::kNotCanonical;
    translation.page_size = kPageSize;
    return translation;
  }
  translation.table = space.root & kTableAddressMask;
  for (int shift = TopShift(space);; shift -= 9) {
    uint64_t entry;
    if (!memory.Load(translation.table + ((address >> shift) & 511) * 8, &entry)) {
      translation.result = WalkResult::kOutsideRam;
      translation.page_size = uint64_t{1} << shift;
      return translation;
    }
    if (Interpret(entry, shift, address, &translation)) return translation;
    translation.table = entry & kTableAddressMask;
  }
}

template <typename Memory>
uint64_t ReadVirtual(const Memory& memory, const AddressSpace& space, uint64_t address, void* out, uint64_t length) {
  return ForEachPiece(memory, space, address, length, [&memory, out](uint64_t gpa, uint64_t done, uint64_t size) {
    return CopyOut(memory, gpa, static_cast<uint8_t*>(out) + done, size);
  });
}

uint64_t WriteVirtual(const RegionTable& memory, const AddressSpace& space, uint64_t address, const void* bytes,
                      uint64_t length) {
  return ForEachPiece(memory, space, address, length, [&memory, bytes](uint64_t gpa, uint64_t done, uint64_t size) {
    std::memcpy(memory.At(gpa, size), static_cast<const uint8_t*>(bytes) + done, size);
    return true;
  });
}

uint8_t* VirtualAt(const RegionTable& memory, const AddressSpace& space, uint64_t address, uint64_t length) {
  const Translation first = Translate(memory, space, address);
  if (!first.mapped()) return nullptr;
  uint64_t covered = first.page_size - (address & (first.page_size - 1));
  while (covered < length) {
    const Translation next = Translate(memory, space, address + covered);
    if (!next.mapped() || next.gpa != first.gpa + covered) return nullptr;
    covered += next.page_size;
  }
  return memory.At(first.gpa, length);
}

template <typename Memory>
uint64_t VisitExtents(const Memory& memory, const AddressSpace& space, uint64_t from, uint64_t to,
                      const std::function<bool(const Extent&)>& visit, uint64_t budget) {
  const uint64_t last = to - 1;
  if (from > last) return to;
  const int top = TopShift(space);
  // The canonical addresses are two halves, which a walk must not join into one range.
  const uint64_t half = uint64_t{1} << (top + 8);
  ExtentWalk<Memory> walk(memory, visit, budget);
  const uint64_t root = space.root & kTableAddressMask;
  const auto descend = [&](uint64_t low, uint64_t high) {
    return std::max(low, from) > std::min(high, last) ||
           walk.Descend(root, top, std::max(low, from), std::min(high, last));
  };
  const bool complete = descend(0, half - 1) && descend(-half, ~uint64_t{0}) && walk.Finish();
  return complete ? to : walk.stopped_at();
}

template <typename Memory>
ExtentList FindExtents(const Memory& memory, const AddressSpace& space, uint64_t from, uint64_t to, size_t limit) {
  ExtentList found;
  const uint64_t end = VisitExtents(memory, space, from, to, [&found, limit](const Extent& extent) {
    if (found.extents.size() == limit) return false;
    found.extents.push_back(extent);
    return true;
  });
  found.complete = end == to;
  return found;
}

template Translation Translate(const RegionTable&, const AddressSpace&, uint64_t);
template Translation Translate(const GuestRam&, const AddressSpace&, uint64_t);
template uint64_t ReadVirtual(const RegionTable&, const AddressSpace&, uint64_t, void*, uint64_t);
template uint64_t ReadVirtual(const GuestRam&, const AddressSpace&, uint64_t, void*, uint64_t);
template uint64_t VisitExtents(const RegionTable&, const AddressSpace&, uint64_t, uint64_t,
                               const std::function<bool(const Extent&)>&, uint64_t);
template uint64_t VisitExtents(const GuestRam&, const AddressSpace&, uint64_t, uint64_t,
                               const std::function<bool(const Extent&)>&, uint64_t);
template ExtentList FindExtents(const RegionTable&, const AddressSpace&, uint64_t, uint64_t, size_t);
template ExtentList FindExtents(const GuestRam&, const AddressSpace&, uint64_t, uint64_t, size_t);

}  // namespace penumbra
