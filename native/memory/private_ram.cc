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

// Making a page on touch costs several times as much as refreshing it.
constexpr size_t kLazyFactor = 4;

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

PrivateRam::PrivateRam(const GuestRam& ram, uint64_t scratch_gpa, uint64_t scratch_size, Touch touch)
    : ram_(ram),
      scratch_(Mapping::Kind::kAnonymous, -1, 0, scratch_size),
      scratch_gpa_(scratch_gpa),
      pagemap_fd_(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {
  if (pagemap_fd_ < 0) throw SystemError("ENGINE", "cannot open /proc/self/pagemap");
  try {
    for (const RamDescriptor& descriptor : ram.descriptors()) {
      if (descriptor.foreign || descriptor.copied) {
        if (!lazy_) lazy_.emplace(ram, touch);
        table_.Add({descriptor.gpa, descriptor.size, lazy_->Add(descriptor.gpa, descriptor.size)});
      } else {
        forks_.push_back(
            {descriptor.gpa, Mapping(Mapping::Kind::kPrivate, descriptor.fd, descriptor.offset, descriptor.size)});
        table_.Add({descriptor.gpa, descriptor.size, forks_.back().memory.data()});
      }
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
  for (const Fork& fork : forks_) {
    const uint64_t host = reinterpret_cast<uint64_t>(fork.memory.data());
    for (const PageRun& run : FindPrivatePages(pagemap_fd_, fork.memory.data(), fork.memory.size())) {
      for (uint64_t at = 0; at < run.size; at += kPageSize) {
        const uint64_t offset = run.start + at - host;
        if (private_pages_.size() < keep_limit) {
          private_pages_.push_back(fork.gpa + offset);
        } else {
          // Safe: the range lies inside our own private mapping; the next touch reads the guest's page again.
          madvise(fork.memory.data() + offset, run.size - at, MADV_DONTNEED);
          break;
        }
      }
    }
  }
  if (lazy_) lazy_->Trim(keep_limit * kLazyFactor);
}

void PrivateRam::Refresh() {
  for (const uint64_t gpa : private_pages_) {
    std::memcpy(table_.At(gpa, kPageSize), ram_.At(gpa, kPageSize), kPageSize);
  }
  if (lazy_) lazy_->Refresh();
}

uint64_t PrivateRam::CopyAll() {
  uint64_t copied = 0;
  for (const Fork& fork : forks_) {
    for (const GuestRam::Run& run : ram_.FindPopulated(fork.gpa, fork.gpa + fork.memory.size())) {
      CopyPages(fork.memory.data() + (run.gpa - fork.gpa), run.size);
      copied += run.size;
    }
  }
  return copied + (lazy_ ? lazy_->CopyAll() : 0);
}

void PrivateRam::DropAll() {
  for (const Fork& fork : forks_) madvise(fork.memory.data(), fork.memory.size(), MADV_DONTNEED);
  private_pages_.clear();
  if (lazy_) lazy_->DropAll();
}

void PrivateRam::RequireWhole() const {
  if (lazy_) lazy_->RequireWhole();
  ram_.RequireIntact();
  for (const Fork& fork : forks_) {
    if (fork.memory.is_lost()) throw Error("GUEST_GONE", "the file behind guest RAM was cut short");
  }
}

}  // namespace penumbra
