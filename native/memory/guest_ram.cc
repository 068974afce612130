#include "memory/guest_ram.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "error.h"

namespace penumbra {

namespace {

constexpr size_t kPiecesAtOnce = 1024;

void CloseAll(const std::vector<RamDescriptor>& descriptors) {
  for (const RamDescriptor& descriptor : descriptors) close(descriptor.fd);
}

// Runs of [offset, offset + size) of a file that are not holes: lseek(2), SEEK_DATA. Reading a hole through a mapping
// would make the file system fill it.
template <typename Visit>
void ForEachData(int fd, uint64_t offset, uint64_t size, Visit visit) {
  const uint64_t end = offset + size;
  while (offset < end) {
    const off_t data = lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
    if (data < 0 && errno != ENXIO) return visit(offset, end - offset);
    if (data < 0 || static_cast<uint64_t>(data) >= end) return;
    const off_t hole = lseek(fd, data, SEEK_HOLE);
    const uint64_t stop = hole < 0 ? end : std::min(end, static_cast<uint64_t>(hole));
    const uint64_t start = std::max(offset, static_cast<uint64_t>(data));
    visit(start, stop - start);
    offset = std::max(stop, start + 1);
  }
}

}  // namespace

GuestRam::GuestRam(std::vector<RamDescriptor> descriptors) {
  RegionTable checked;
  for (const RamDescriptor& descriptor : descriptors) checked.Add({descriptor.gpa, descriptor.size, nullptr});
  try {
    for (const RamDescriptor& descriptor : descriptors) Add(descriptor);
  } catch (...) {
    CloseAll(descriptors_);
    throw;
  }
  std::sort(regions_.begin(), regions_.end(), [](const Region& a, const Region& b) { return a.gpa < b.gpa; });
}

GuestRam::~GuestRam() { CloseAll(descriptors_); }

void GuestRam::Add(const RamDescriptor& descriptor) {
  uint64_t address = descriptor.offset;
  if (descriptor.foreign) {
    if (foreign_ == nullptr) foreign_ = std::make_unique<ForeignMemory>(descriptor.pid, descriptor.fd);
  } else {
    mappings_.emplace_back(Mapping::Kind::kSharedReadOnly, descriptor.fd, descriptor.offset, descriptor.size);
    address = reinterpret_cast<uint64_t>(mappings_.back().data());
  }
  RamDescriptor kept = descriptor;
  kept.fd = fcntl(descriptor.fd, F_DUPFD_CLOEXEC, 0);
  if (kept.fd < 0) throw SystemError("ENGINE", "cannot keep the RAM file open");
  regions_.push_back({kept.gpa, kept.size, address, kept.foreign, descriptors_.size()});
  descriptors_.push_back(kept);
}

bool GuestRam::Copy(uint64_t gpa, void* out, uint64_t length) const noexcept {
  uint8_t* to = static_cast<uint8_t*>(out);
  while (length > 0) {
    const Place place = Find(gpa);
    const uint64_t size = std::min(length, place.left);
    if (size == 0) return false;
    if (!place.foreign) {
      std::memcpy(to, reinterpret_cast<const void*>(place.address), size);
    } else if (!foreign_->Read(place.address, to, size)) {
      return false;
    }
    to += size;
    gpa += size;
    length -= size;
  }
  return true;
}

void GuestRam::Read(uint64_t gpa, void* out, uint64_t length) const {
  if (!Copy(gpa, out, length)) {
    for (uint64_t at = 0; at < length;) {
      const uint64_t left = Left(gpa + at);
      if (left == 0) throw Error("BAD_ADDRESS", "guest-physical address outside RAM", gpa + at);
      at += left;
    }
    throw Error("GUEST_GONE", "RAM that the guest had is gone: it was unplugged, or QEMU ended", gpa);
  }
  RequireIntact();
}

size_t GuestRam::CopyScattered(std::span<const Piece> pieces) const {
  std::vector<ForeignMemory::Piece> batch;
  std::vector<size_t> indices;
  const auto flush = [&]() -> size_t {
    const size_t read = batch.empty() ? 0 : foreign_->ReadScattered(batch);
    const size_t failed = read < batch.size() ? indices[read] : pieces.size();
    batch.clear();
    indices.clear();
    return failed;
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const Piece& piece = pieces[i];
    const Place place = Find(piece.gpa);
    if (place.left < piece.length) return std::min(i, flush());
    if (!place.foreign) {
      std::memcpy(piece.out, reinterpret_cast<const void*>(place.address), piece.length);
      continue;
    }
    batch.push_back({place.address, piece.out, piece.length});
    indices.push_back(i);
    if (batch.size() < kPiecesAtOnce) continue;
    if (const size_t failed = flush(); failed < pieces.size()) return failed;
  }
  return flush();
}

std::vector<GuestRam::Run> GuestRam::FindPopulated(uint64_t from, uint64_t to) const {
  std::vector<Run> runs;
  for (const Region& region : regions_) {
    const uint64_t begin = std::max(from, region.gpa);
    const uint64_t end = std::min(to, region.gpa + region.size);
    if (begin >= end) continue;
    const RamDescriptor& descriptor = descriptors_[region.descriptor];
    const uint64_t offset = descriptor.offset + (begin - region.gpa);
    const auto add = [&](uint64_t at, uint64_t size) {
      const uint64_t start = begin + (at - offset);
      runs.push_back({start, std::min(size, end - start)});
    };
    if (!descriptor.sparse) {
      add(offset, end - begin);
    } else if (region.foreign) {
      const uint64_t lead = offset & kPageMask;
      for (const ForeignMemory::Run& run : foreign_->FindPopulated(offset - lead, end - begin + lead)) {
        const uint64_t at = std::max(run.address, offset);
        if (run.address + run.size > at && at - offset < end - begin) add(at, run.address + run.size - at);
      }
    } else {
      ForEachData(descriptor.fd, offset, end - begin, add);
    }
  }
  return runs;
}

void GuestRam::RequireIntact() const {
  for (const Mapping& mapping : mappings_) {
    if (mapping.is_lost()) throw Error("GUEST_GONE", "the file behind guest RAM was cut short");
  }
}

void GuestRam::RequireReachable() const {
  RequireIntact();
  for (const Region& region : regions_) {
    uint8_t byte;
    if (region.foreign && !foreign_->Read(region.address, &byte, sizeof byte)) {
      throw Error("GUEST_GONE", "the hypervisor's memory cannot be read any more");
    }
  }
}

}  // namespace penumbra
