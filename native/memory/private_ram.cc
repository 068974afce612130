#include "memory/private_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

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
  KeepOverlaysOfPrivatePages();
  if (lazy_) lazy_->Trim(keep_limit * kLazyFactor);
}

void PrivateRam::KeepOverlaysOfPrivatePages() {
  overlay_losses_ += std::erase_if(overlays_, [this](const auto& overlaid) {
    return std::find(private_pages_.begin(), private_pages_.end(), overlaid.first) == private_pages_.end();
  });
}

void PrivateRam::Refresh(Look look) {
  if (look == Look::kOneInTurn && !LookAtOne()) look = Look::kAll;
  for (const uint64_t gpa : private_pages_) {
    const auto overlaid = overlays_.find(gpa);
    if (overlaid != overlays_.end() && (look == Look::kOneInTurn || StandsAsOverlaid(*overlaid))) continue;
    std::memcpy(table_.At(gpa, kPageSize), ram_.At(gpa, kPageSize), kPageSize);
    if (overlaid == overlays_.end()) continue;
    overlays_.erase(overlaid);
    overlay_losses_++;
  }
  if (lazy_) lazy_->Refresh();
}

// True when the page whose turn it is stands as it was.
bool PrivateRam::LookAtOne() {
  if (overlays_.empty()) return true;
  turn_ = (turn_ + 1) % overlays_.size();
  return StandsAsOverlaid(*std::next(overlays_.begin(), static_cast<ptrdiff_t>(turn_)));
}

bool PrivateRam::Overlay(uint64_t gpa, const uint8_t* bytes, size_t size) {
  uint8_t* const own = table_.At(gpa, size);
  const bool is_fork = std::any_of(forks_.begin(), forks_.end(),
                                   [gpa](const Fork& fork) { return gpa - fork.gpa < fork.memory.size(); });
  const size_t offset = gpa & kPageMask;
  if (is_fork) {
    std::vector<Patch>& patches = overlays_[gpa & ~kPageMask];
    const auto place =
        std::find_if(patches.begin(), patches.end(), [offset](const Patch& patch) { return patch.offset >= offset; });
    const bool known = place != patches.end() && place->offset == offset;
    Patch& patch = known ? *place : *patches.insert(place, Patch{});
    patch.offset = offset;
    patch.size = size;
    std::memcpy(patch.guest.data(), ram_.At(gpa, size), size);
    std::memcpy(patch.own.data(), bytes, size);
  }
  // Not where it is there already: an emulated processor would translate its code anew.
  if (std::memcmp(own, bytes, size) != 0) std::memcpy(own, bytes, size);
  return is_fork;
}

bool PrivateRam::StandsAsOverlaid(const std::pair<const uint64_t, std::vector<Patch>>& overlaid) const {
  const uint8_t* const own = table_.At(overlaid.first, kPageSize);
  const uint8_t* const guest = ram_.At(overlaid.first, kPageSize);
  size_t at = 0;
  for (const Patch& patch : overlaid.second) {
    if (patch.offset < at) return false;
    if (std::memcmp(own + at, guest + at, patch.offset - at) != 0 ||
        std::memcmp(guest + patch.offset, patch.guest.data(), patch.size) != 0 ||
        std::memcmp(own + patch.offset, patch.own.data(), patch.size) != 0) {
      return false;
    }
    at = patch.offset + patch.size;
  }
  return std::memcmp(own + at, guest + at, kPageSize - at) == 0;
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
  KeepOverlaysOfPrivatePages();
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
