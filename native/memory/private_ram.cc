#include "memory/private_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "error.h"
#include "memory/pagemap.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // since 5.14
#endif

namespace penumbra {

namespace {

/// Breaks the sharing of these pages of a private mapping.
void CopyPages(uint8_t* data, uint64_t size) {
  if (madvise(data, size, MADV_POPULATE_WRITE) == 0) return;
  // Safe: the range lies inside our own private mapping; a write of what is there copies the page.
  for (uint64_t at = 0; at < size; at += kPageSize) {
    volatile uint8_t* byte = data + at;
    *byte = *byte;
  }
}

}  // namespace

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

uint64_t PrivateRam::CopyAll() {
  uint64_t copied = 0;
  for (size_t i = 0; i < mappings_.size(); ++i) {
    const RamDescriptor& descriptor = ram_.descriptors()[i];
    const off_t end = static_cast<off_t>(descriptor.offset + descriptor.size);
    for (off_t at = static_cast<off_t>(descriptor.offset); at < end;) {
      const off_t from = lseek(descriptor.fd, at, SEEK_DATA);
      if (from < 0 || from >= end) break;
      const off_t to = std::min(lseek(descriptor.fd, from, SEEK_HOLE), end);
      uint8_t* data = mappings_[i].data() + (from - static_cast<off_t>(descriptor.offset));
      CopyPages(data, static_cast<uint64_t>(to - from));
      copied += static_cast<uint64_t>(to - from);
      at = to;
    }
  }
  return copied;
}

void PrivateRam::DropAll() {
  for (const Mapping& mapping : mappings_) madvise(mapping.data(), mapping.size(), MADV_DONTNEED);
  private_pages_.clear();
}

}  // namespace penumbra
