#include "memory/virtual_reader.h"

#include <algorithm>

namespace penumbra {

namespace {

constexpr size_t kPiecesAtOnce = 1024;
constexpr uint64_t kPresent = 1;
constexpr uint64_t kDirectoryMask = (uint64_t{1} << 21) - 1;

}  // namespace

// Copies mapped memory at once and foreign memory in few system calls.
class VirtualReader::Gathering {
 public:
  explicit Gathering(const GuestRam& ram) : ram_(ram) {}

  // `offset` is that of the first byte in request number `request`.
  void Add(const GuestRam::Place& place, uint8_t* out, uint64_t length, size_t request, uint64_t offset) {
    if (!place.foreign) {
      std::memcpy(out, reinterpret_cast<const void*>(place.address), length);
      return;
    }
    if (!pieces_.empty() && owners_.back().request == request) {
      ForeignMemory::Piece& last = pieces_.back();
      if (last.address + last.length == place.address && static_cast<uint8_t*>(last.out) + last.length == out) {
        last.length += length;
        return;
      }
    }
    pieces_.push_back({place.address, out, length});
    owners_.push_back({request, offset});
    if (pieces_.size() == kPiecesAtOnce) Flush();
  }

  // Calls failed(request, offset, length) for each piece that is not there any more; it is all zeros.
  template <typename Failed>
  void Finish(Failed failed) {
    Flush();
    for (const Owner& owner : failed_) failed(owner.request, owner.offset, owner.length);
  }

 private:
  struct Owner {
    size_t request;
    uint64_t offset;
    uint64_t length = 0;
  };

  void Flush() {
    for (size_t done = 0; done < pieces_.size(); ++done) {
      done += ram_.foreign()->ReadScattered(std::span(pieces_).subspan(done));
      if (done == pieces_.size()) break;
      std::memset(pieces_[done].out, 0, pieces_[done].length);
      owners_[done].length = pieces_[done].length;
      failed_.push_back(owners_[done]);
    }
    pieces_.clear();
    owners_.clear();
  }

  const GuestRam& ram_;
  std::vector<ForeignMemory::Piece> pieces_;
  std::vector<Owner> owners_;
  std::vector<Owner> failed_;
};

VirtualReader::VirtualReader(const GuestRam& ram, const AddressSpace& space)
    : ram_(ram), space_(space), entries_(std::make_unique<Entry[]>(kEntries)) {}

VirtualReader::~VirtualReader() = default;

void VirtualReader::Forget() {
  if (++generation_ < uint64_t{1} << (64 - kTagBits)) return;
  generation_ = 1;
  std::fill_n(entries_.get(), kEntries, Entry{});
  for (Directory& directory : directories_) directory.tag = 0;
}

inline GuestRam::Place VirtualReader::Locate(uint64_t address) {
  const Entry& entry = entries_[(address >> 12) & kEntryMask];
  if (entry.tag != TagOf(address)) return LocateMissed(address);
  ++counts_.hits;
  const uint64_t offset = address & kPageMask;
  return {entry.place + offset, kPageSize - offset, false};
}

GuestRam::Place VirtualReader::LocateMissed(uint64_t address) {
  ++counts_.misses;
  const Directory& directory = directories_[(address >> 21) % kDirectories];
  uint64_t gpa;
  if (directory.tag == TagOf(address & ~kDirectoryMask)) [[likely]] {
    const uint64_t entry = directory.table[(address >> 12) & 511];
    if ((entry & kPresent) == 0) return {0, 0, false};
    gpa = (entry & kTableAddressMask) | (address & kPageMask);
  } else {
    const Translation translation = Walk(address);
    if (!translation.mapped()) return {0, 0, false};
    gpa = translation.gpa;
  }
  GuestRam::Place place = ram_.Find(gpa);
  if (place.left == 0) return place;
  const uint64_t offset = address & kPageMask;
  if (!place.foreign) entries_[(address >> 12) & kEntryMask] = {TagOf(address), place.address - offset};
  // Regions are whole pages, so that all of this one is there.
  place.left = kPageSize - offset;
  return place;
}

bool VirtualReader::LoadMissed(uint64_t address, void* value, size_t size) {
  const GuestRam::Place place = Locate(address);
  if (place.left < size) return Read(address, value, size) == size;
  if (place.foreign) return ram_.foreign()->Read(place.address, value, size);
  std::memcpy(value, reinterpret_cast<const void*>(place.address), size);
  return true;
}

// Translates, and remembers the table of the lowest level if there is one.
Translation VirtualReader::Walk(uint64_t address) {
  const Translation translation = Translate(address);
  if (translation.page_size != kPageSize || translation.table == 0) return translation;
  Directory& directory = directories_[(address >> 21) % kDirectories];
  if (directory.copy == nullptr && ram_.foreign() != nullptr) {
    directory.copy = std::make_unique<std::array<uint64_t, 512>>();
  }
  directory.table = ram_.Table(translation.table, directory.copy ? directory.copy->data() : nullptr);
  directory.tag = directory.table == nullptr ? 0 : TagOf(address & ~kDirectoryMask);
  return translation;
}

uint64_t VirtualReader::Read(uint64_t address, void* out, uint64_t length) {
  const Request request{address, length};
  uint64_t read;
  ReadScattered({&request, 1}, out, &read);
  return read;
}

void VirtualReader::ReadScattered(std::span<const Request> requests, void* out, uint64_t* lengths) {
  Gathering gathering(ram_);
  uint8_t* to = static_cast<uint8_t*>(out);
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto [address, length] = requests[i];
    uint64_t done = 0;
    while (done < length) {
      const GuestRam::Place place = Locate(address + done);
      if (place.left == 0) break;
      const uint64_t size = std::min(place.left, length - done);
      gathering.Add(place, to + done, size, i, done);
      done += size;
    }
    if (done < length) std::memset(to + done, 0, length - done);
    lengths[i] = done;
    to += length;
  }
  gathering.Finish(
      [lengths](size_t request, uint64_t offset, uint64_t) { lengths[request] = std::min(lengths[request], offset); });
}

std::vector<uint32_t> VirtualReader::LoadAll(std::span<const uint64_t> addresses, uint64_t* values) {
  std::vector<uint32_t> missing;
  if (ram_.foreign() == nullptr) {
    for (size_t i = 0; i < addresses.size(); ++i) {
      if (Load(addresses[i], &values[i])) [[likely]]
        continue;
      values[i] = 0;
      missing.push_back(static_cast<uint32_t>(i));
    }
    return missing;
  }
  std::vector<Request> requests(addresses.size());
  std::vector<uint64_t> lengths(addresses.size());
  for (size_t i = 0; i < addresses.size(); ++i) requests[i] = {addresses[i], sizeof *values};
  ReadScattered(requests, values, lengths.data());
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (lengths[i] == sizeof *values) continue;
    values[i] = 0;
    missing.push_back(static_cast<uint32_t>(i));
  }
  return missing;
}

std::vector<VirtualReader::Hole> VirtualReader::ReadPresent(uint64_t address, void* out, uint64_t length) {
  Gathering gathering(ram_);
  std::vector<Hole> holes;
  uint8_t* to = static_cast<uint8_t*>(out);
  for (uint64_t done = 0; done < length;) {
    const GuestRam::Place place = Locate(address + done);
    const uint64_t left_in_page = kPageSize - ((address + done) & kPageMask);
    const uint64_t size = std::min(place.left == 0 ? left_in_page : place.left, length - done);
    if (place.left != 0) {
      gathering.Add(place, to + done, size, 0, done);
    } else {
      std::memset(to + done, 0, size);
      const Translation translation = Translate(address + done);
      // A page that is mapped to where no RAM is reads as if its table were outside.
      const WalkResult result = translation.mapped() ? WalkResult::kOutsideRam : translation.result;
      Hole* last = holes.empty() ? nullptr : &holes.back();
      if (last != nullptr && last->address + last->size == address + done && last->result == result &&
          last->entry == translation.entry) {
        last->size += size;
      } else {
        holes.push_back({address + done, size, result, translation.entry});
      }
    }
    done += size;
  }
  gathering.Finish([&](size_t, uint64_t offset, uint64_t size) {
    holes.push_back({address + offset, size, WalkResult::kOutsideRam, 0});
  });
  return holes;
}

const uint8_t* VirtualReader::At(uint64_t address, uint64_t length) {
  const GuestRam::Place first = Locate(address);
  if (first.left == 0 || first.foreign) return nullptr;
  for (uint64_t done = first.left; done < length;) {
    const GuestRam::Place next = Locate(address + done);
    if (next.left == 0 || next.foreign || next.address != first.address + done) return nullptr;
    done += next.left;
  }
  return reinterpret_cast<const uint8_t*>(first.address);
}

}  // namespace penumbra
