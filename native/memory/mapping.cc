#include "memory/mapping.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include <atomic>

#include "error.h"
#include "memory/fault_range.h"
#include "memory/region_table.h"

namespace penumbra {

namespace {

// Offsets into a file of huge pages are multiples of its page size.
uint64_t GranuleOf(int fd) {
  struct statfs status;
  if (fstatfs(fd, &status) != 0 || status.f_type != HUGETLBFS_MAGIC) return kPageSize;
  return static_cast<uint64_t>(status.f_bsize);
}

// A free place that differs in the low bits of its pages' numbers from where the kernel puts mappings of that size, one
// below the other or at multiples of 2 MiB. The guest's RAM and the private copy of it are looked at page for page
// together: at the distance of a power of two their pages may take each other's place in a translation buffer that is
// indexed by these bits, as an emulated processor's is.
void* FindPlaceBeside(uint64_t length) {
  constexpr uint64_t kAside = 36 * kPageSize;
  constexpr uint64_t kUsual = 2 << 20;
  const uint64_t room = length + kAside;
  // Safe: memory that nobody has been told of comes and goes.
  void* const place = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) return nullptr;
  munmap(place, room);
  return static_cast<uint8_t*>(place) + (reinterpret_cast<uintptr_t>(place) % kUsual == 0 ? kAside : 0);
}

}  // namespace

// A file that is cut short under a mapping raises SIGBUS behind its new end. All of the mapping becomes zeros then: the
// guest is lost, this process need not be.
class Mapping::Guard final : public FaultHandler {
 public:
  Guard(uint8_t* start, uint64_t length, int protection)
      : start_(start), length_(length), protection_(protection), range_(start, length, this) {}

  bool OnFault(uint64_t) noexcept override {
    lost_.store(true, std::memory_order_relaxed);
    // Safe: replaces a mapping of ours, whole, by one that can be accessed in the same ways.
    return mmap(start_, length_, protection_, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
  }

  bool lost() const { return lost_.load(std::memory_order_relaxed); }

 private:
  uint8_t* start_;
  uint64_t length_;
  int protection_;
  std::atomic<bool> lost_{false};
  FaultRange range_;
};

Mapping::Mapping() = default;

Mapping::Mapping(Kind kind, int fd, uint64_t offset, uint64_t size) : size_(size), length_(size) {
  int protection = PROT_READ | PROT_WRITE;
  int flags = MAP_PRIVATE | MAP_NORESERVE;
  uint64_t before = 0;
  if (kind == Kind::kAnonymous) {
    flags |= MAP_ANONYMOUS;
    fd = -1;
    offset = 0;
  } else {
    const uint64_t granule = GranuleOf(fd);
    before = offset & (granule - 1);
    offset -= before;
    length_ = (before + size + granule - 1) & ~(granule - 1);
  }
  if (kind == Kind::kSharedReadOnly) {
    protection = PROT_READ;
    flags = MAP_SHARED | MAP_NORESERVE;
  }
  void* const hint = kind == Kind::kPrivate ? FindPlaceBeside(length_) : nullptr;
  // Safe: the kernel chooses the address, so nothing that exists is replaced.
  void* address = mmap(hint, length_, protection, flags, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) {
    throw SystemError(errno == EACCES || errno == EPERM ? "PERMISSION" : "ENGINE", "cannot map guest RAM");
  }
  start_ = static_cast<uint8_t*>(address);
  data_ = start_ + before;
  // Guest memory belongs into no child's address space and into no core file.
  madvise(start_, length_, MADV_DONTFORK);
  madvise(start_, length_, MADV_DONTDUMP);
  if (kind == Kind::kAnonymous) return;
  try {
    guard_ = std::make_unique<Guard>(start_, length_, protection);
  } catch (...) {
    munmap(start_, length_);
    throw;
  }
}

Mapping::~Mapping() {
  guard_.reset();
  if (start_ != nullptr) munmap(start_, length_);
}

Mapping::Mapping(Mapping&& other) noexcept { *this = std::move(other); }

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(start_, other.start_);
  std::swap(length_, other.length_);
  std::swap(guard_, other.guard_);
  return *this;
}

bool Mapping::is_lost() const { return guard_ != nullptr && guard_->lost(); }

}  // namespace penumbra
