#include "memory/private_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "error.h"
#include "memory/pagemap.h"

namespace penumbra {

PrivateRam::PrivateRam(const GuestRam& ram, uint64_t scratch_gpa, uint64_t scratch_size)
    : ram_(ram),
      scratch_(Mapping::Kind::kAnonymous, -1, 0, scratch_size),
      scratch_gpa_(scratch_gpa),
      pagemap_fd_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {
  if (pagemap_fd_ < 0) throw SystemError("ENGINE", "cannot open /proc/self/pagemap");
  try {
    for (const RamDescriptor& descriptor : ram.descriptors()) {
      mappings_.emplace_back(Mapping::Kind::kPrivate, descriptor.fd, descriptor.offset, descriptor.size);
      table_.Add({descriptor.gpa, descriptor.size, mappings_.back().data()});
    }
    table_.Add({scratch_gpa, scratch_size, scratch_.data()});
  } catch (...) {
    close(pagemap_fd_);
    throw;
  }
}

PrivateRam::~PrivateRam() { close(pagemap_fd_); }

void PrivateRam::CollectPrivatePages(size_t keep_limit) {
  private_pages_.clear();
  for (size_t i = 0; i < mappings_.size(); ++i) {
    const uint64_t gpa = ram_.descriptors()[i].gpa;
    const uint64_t host = reinterpret_cast<uint64_t>(mappings_[i].data());
    for (const PageRun& run : FindPrivatePages(pagemap_fd_, mappings_[i].data(), mappings_[i].size())) {
      for (uint64_t at = 0; at < run.size; at += kPageSize) {
        const uint64_t offset = run.start + at - host;
        if (private_pages_.size() < keep_limit) {
          private_pages_.push_back(gpa + offset);
        } else {
          // Safe: the range lies inside our own private mapping; the next touch reads the guest's page again.
          madvise(mappings_[i].data() + offset, run.size - at, MADV_DONTNEED);
          break;
        }
      }
    }
  }
}

void PrivateRam::Refresh() {
  for (const uint64_t gpa : private_pages_) {
    std::memcpy(table_.At(gpa, kPageSize), ram_.table().At(gpa, kPageSize), kPageSize);
  }
}

void PrivateRam::DropAll() {
  for (const Mapping& mapping : mappings_) madvise(mapping.data(), mapping.size(), MADV_DONTNEED);
  private_pages_.clear();
}

}  // namespace penumbra
