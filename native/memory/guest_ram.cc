#include "memory/guest_ram.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "error.h"

namespace penumbra {

namespace {

void CloseAll(const std::vector<RamDescriptor>& descriptors) {
  for (const RamDescriptor& descriptor : descriptors) close(descriptor.fd);
}

}  // namespace

GuestRam::GuestRam(std::vector<RamDescriptor> descriptors) {
  try {
    for (RamDescriptor descriptor : descriptors) {
      mappings_.emplace_back(Mapping::Kind::kSharedReadOnly, descriptor.fd, descriptor.offset, descriptor.size);
      table_.Add({descriptor.gpa, descriptor.size, mappings_.back().data()});
      descriptor.fd = fcntl(descriptor.fd, F_DUPFD_CLOEXEC, 0);
      if (descriptor.fd < 0) throw SystemError("ENGINE", "cannot keep the RAM file open");
      descriptors_.push_back(descriptor);
    }
  } catch (...) {
    CloseAll(descriptors_);
    throw;
  }
}

GuestRam::~GuestRam() { CloseAll(descriptors_); }

void GuestRam::Read(uint64_t gpa, void* out, uint64_t length) const {
  uint8_t* destination = static_cast<uint8_t*>(out);
  while (length > 0) {
    const MappedRegion* found = nullptr;
    for (const MappedRegion& region : table_.regions()) {
      if (gpa - region.gpa < region.size) found = &region;
    }
    if (found == nullptr) throw Error("BAD_ADDRESS", "guest-physical address outside RAM", gpa);
    const uint64_t offset = gpa - found->gpa;
    const uint64_t chunk = std::min(length, found->size - offset);
    std::memcpy(destination, found->host + offset, chunk);
    destination += chunk;
    gpa += chunk;
    length -= chunk;
  }
}

}  // namespace penumbra
