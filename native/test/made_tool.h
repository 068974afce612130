// A process that stands for a redirected tool: it waits, while its memory and files are worked on from here.
#ifndef PENUMBRA_NATIVE_TEST_MADE_TOOL_H_
#define PENUMBRA_NATIVE_TEST_MADE_TOOL_H_

#include <cstdint>
#include <vector>

#include "redirect/supervisor.h"

namespace penumbra::test {

/// Its arena is memory that both processes have at the same address. Buffers are handed out with a pattern around them;
/// what a call may write to is told, and everything else must stay as it was.
class MadeTool {
 public:
  static constexpr uint64_t kArena = 32 << 10;

  /// The process inherits this one's files.
  MadeTool();
  ~MadeTool();
  MadeTool(const MadeTool&) = delete;
  MadeTool& operator=(const MadeTool&) = delete;

  ToolProcess* process() { return &process_; }

  /// Fresh memory everywhere.
  void Clear();
  /// A buffer of the tool; `writable`: calls may write to it.
  uint8_t* Take(uint64_t size, bool writable);
  /// To be called when everything is in place.
  void NoteContents();
  /// Whether a byte outside the writable buffers has changed since.
  bool IsSpoilt() const;

 private:
  struct Range {
    uint64_t begin, end;
  };

  uint8_t* arena_;
  uint64_t taken_ = 0;
  std::vector<Range> writable_;
  std::vector<uint8_t> before_;
  ToolProcess process_;
};

}  // namespace penumbra::test

#endif  // PENUMBRA_NATIVE_TEST_MADE_TOOL_H_
