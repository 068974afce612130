#include "redirect/tool_pieces.h"

#include <algorithm>
#include <cerrno>

namespace penumbra {

int ToolPieces::Read(const ToolMemory& memory, uint64_t address, uint64_t count) {
  if (count > kMost) return EINVAL;
  pieces_.resize(count);
  return memory.Read(address, pieces_.data(), count * sizeof(iovec)) ? 0 : EFAULT;
}

uint64_t ToolPieces::size(uint64_t most) const {
  uint64_t sum = 0;
  for (const iovec& piece : pieces_) sum += std::min<uint64_t>(piece.iov_len, most - sum);
  return sum;
}

bool ToolPieces::Gather(const ToolMemory& memory, uint8_t* out, uint64_t length) const {
  for (const iovec& piece : pieces_) {
    const uint64_t part = std::min<uint64_t>(piece.iov_len, length);
    if (!memory.Read(reinterpret_cast<uint64_t>(piece.iov_base), out, part)) return false;
    out += part;
    length -= part;
  }
  return true;
}

bool ToolPieces::Scatter(const ToolMemory& memory, const uint8_t* bytes, uint64_t length) const {
  for (const iovec& piece : pieces_) {
    const uint64_t part = std::min<uint64_t>(piece.iov_len, length);
    if (!memory.Write(reinterpret_cast<uint64_t>(piece.iov_base), bytes, part)) return false;
    bytes += part;
    length -= part;
  }
  return true;
}

}  // namespace penumbra
