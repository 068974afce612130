#include "memory/mapping.h"

#include <sys/mman.h>

#include "error.h"

namespace penumbra {

Mapping::Mapping(Kind kind, int fd, uint64_t offset, uint64_t size) : size_(size) {
  int protection = PROT_READ | PROT_WRITE;
  int flags = MAP_PRIVATE | MAP_NORESERVE;
  if (kind == Kind::kSharedReadOnly) {
    protection = PROT_READ;
    flags = MAP_SHARED;
  } else if (kind == Kind::kAnonymous) {
    flags |= MAP_ANONYMOUS;
    fd = -1;
    offset = 0;
  }
  // Safe: the kernel chooses the address, so nothing that exists is replaced.
  void* address = mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) {
    throw SystemError(errno == EACCES || errno == EPERM ? "PERMISSION" : "ENGINE", "cannot map guest RAM");
  }
  data_ = static_cast<uint8_t*>(address);
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace penumbra
