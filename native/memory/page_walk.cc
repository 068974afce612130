#include "memory/page_walk.h"

#include <algorithm>

namespace penumbra {

namespace {

constexpr uint64_t kPresent = 1;
constexpr uint64_t kLarge = 1 << 7;

bool IsCanonical(uint64_t address, int levels) {
  const int unused = 64 - (levels == 5 ? 57 : 48);
  return static_cast<uint64_t>(static_cast<int64_t>(address << unused) >> unused) == address;
}

// Calls visit(host, offset into the range, size) for each piece that is contiguous on the host; returns the bytes visited.
template <typename Visit>
uint64_t ForEachPiece(const RegionTable& memory, const AddressSpace& space, uint64_t address, uint64_t length,
                      Visit visit) {
  uint64_t done = 0;
  while (done < length) {
    const Translation translation = Translate(memory, space, address + done);
    if (!translation.mapped()) break;
    const uint64_t left_in_page = translation.page_size - ((address + done) & (translation.page_size - 1));
    const uint64_t size = std::min(length - done, left_in_page);
    uint8_t* host = memory.At(translation.gpa, size);
    if (host == nullptr) break;
    visit(host, done, size);
    done += size;
  }
  return done;
}

}  // namespace

Translation Translate(const RegionTable& memory, const AddressSpace& space, uint64_t address) {
  Translation translation;
  if (!IsCanonical(address, space.levels)) {
    translation.result = WalkResult::kNotCanonical;
    translation.page_size = kPageSize;
    return translation;
  }
  uint64_t table = space.root & kTableAddressMask;
  for (int shift = space.levels == 5 ? 48 : 39;; shift -= 9) {
    const uint64_t covered = uint64_t{1} << shift;
    translation.page_size = covered;
    uint64_t entry;
    if (!memory.Load(table + ((address >> shift) & 511) * 8, &entry)) {
      translation.result = WalkResult::kOutsideRam;
      return translation;
    }
    if ((entry & kPresent) == 0) return translation;
    if (shift == 12 || (entry & kLarge) != 0) {
      if (shift > 30) {
        translation.result = WalkResult::kReserved;
        return translation;
      }
      // In a large page's entry bit 12 is the PAT bit, not part of the address.
      translation.gpa = (entry & kTableAddressMask & ~(covered - 1)) | (address & (covered - 1));
      translation.result = WalkResult::kMapped;
      return translation;
    }
    table = entry & kTableAddressMask;
  }
}

uint64_t ReadVirtual(const RegionTable& memory, const AddressSpace& space, uint64_t address, void* out,
                     uint64_t length) {
  return ForEachPiece(memory, space, address, length, [out](uint8_t* host, uint64_t done, uint64_t size) {
    std::memcpy(static_cast<uint8_t*>(out) + done, host, size);
  });
}

uint64_t WriteVirtual(const RegionTable& memory, const AddressSpace& space, uint64_t address, const void* bytes,
                      uint64_t length) {
  return ForEachPiece(memory, space, address, length, [bytes](uint8_t* host, uint64_t done, uint64_t size) {
    std::memcpy(host, static_cast<const uint8_t*>(bytes) + done, size);
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

std::vector<Extent> FindExtents(const RegionTable& memory, const AddressSpace& space, uint64_t from, uint64_t to,
                                size_t limit) {
  std::vector<Extent> extents;
  uint64_t address = from;
  while (address < to) {
    const Translation translation = Translate(memory, space, address);
    const uint64_t step =
        std::min(translation.page_size - (address & (translation.page_size - 1)), to - address);
    if (translation.mapped() && memory.At(translation.gpa, step) != nullptr) {
      Extent* last = extents.empty() ? nullptr : &extents.back();
      if (last != nullptr && last->address + last->size == address && last->gpa + last->size == translation.gpa) {
        last->size += step;
      } else {
        if (extents.size() == limit) break;
        extents.push_back({address, translation.gpa, step});
      }
    }
    if (address + step < address) break;
    address += step;
  }
  return extents;
}

}  // namespace penumbra
