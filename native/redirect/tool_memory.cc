#include "redirect/tool_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace penumbra {

namespace {

constexpr uint64_t kPage = 4096;
/// Most paths are short: the first read takes no more than this.
constexpr uint64_t kFirstPiece = 256;

}  // namespace

bool ToolMemory::Open(int folder) {
  Close();
  fd_ = openat(folder, "mem", O_RDWR | O_CLOEXEC);
  return fd_ >= 0;
}

void ToolMemory::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

bool ToolMemory::Read(uint64_t address, void* out, size_t size) const {
  uint8_t* at = static_cast<uint8_t*>(out);
  // A negative offset is no user address.
  if (static_cast<int64_t>(address) < 0) return size == 0;
  while (size > 0) {
    const ssize_t got = pread(fd_, at, size, static_cast<off_t>(address));
    if (got <= 0) return false;
    at += got;
    address += static_cast<uint64_t>(got);
    size -= static_cast<size_t>(got);
  }
  return true;
}

bool ToolMemory::Write(uint64_t address, const void* bytes, size_t size) const {
  const uint8_t* at = static_cast<const uint8_t*>(bytes);
  if (static_cast<int64_t>(address) < 0) return size == 0;
  while (size > 0) {
    const ssize_t put = pwrite(fd_, at, size, static_cast<off_t>(address));
    if (put <= 0) return false;
    at += put;
    address += static_cast<uint64_t>(put);
    size -= static_cast<size_t>(put);
  }
  return true;
}

int ToolMemory::ReadString(uint64_t address, char* out, size_t room) const {
  uint64_t piece = kFirstPiece;
  for (size_t length = 0; length < room;) {
    // Not across a page's end: what follows may not be mapped.
    const uint64_t to_page_end = kPage - ((address + length) & (kPage - 1));
    const size_t wanted = std::min({piece, to_page_end, static_cast<uint64_t>(room - length)});
    if (!Read(address + length, out + length, wanted)) return -1;
    if (const void* end = std::memchr(out + length, 0, wanted)) {
      return static_cast<int>(static_cast<const char*>(end) - out);
    }
    length += wanted;
    piece = kPage;
  }
  return -2;
}

}  // namespace penumbra
