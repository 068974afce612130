// Scattered buffers of a tool: struct iovec[].
#ifndef PENUMBRA_NATIVE_REDIRECT_TOOL_PIECES_H_
#define PENUMBRA_NATIVE_REDIRECT_TOOL_PIECES_H_

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "redirect/tool_memory.h"

namespace penumbra {

class ToolPieces {
 public:
  static constexpr uint64_t kMost = 1024;  // UIO_MAXIOV

  /// 0 or an errno.
  int Read(const ToolMemory& memory, uint64_t address, uint64_t count);
  /// Bytes of all pieces, at most `most`.
  uint64_t size(uint64_t most) const;
  /// The first `length` bytes of the pieces, in order.
  bool Gather(const ToolMemory& memory, uint8_t* out, uint64_t length) const;
  bool Scatter(const ToolMemory& memory, const uint8_t* bytes, uint64_t length) const;

 private:
  std::vector<iovec> pieces_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_TOOL_PIECES_H_
