// The memory of one process of a redirected tool.
#ifndef PENUMBRA_NATIVE_REDIRECT_TOOL_MEMORY_H_
#define PENUMBRA_NATIVE_REDIRECT_TOOL_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace penumbra {

/// Reads and writes through /proc/PID/mem, which stays with the memory it was opened for: a pid that was given to
/// another process meanwhile cannot lead astray.
class ToolMemory {
 public:
  ToolMemory() = default;
  ~ToolMemory() { Close(); }
  ToolMemory(const ToolMemory&) = delete;
  ToolMemory& operator=(const ToolMemory&) = delete;

  /// `folder` is /proc/PID. Returns false when there is no such memory.
  bool Open(int folder);
  void Close();
  bool is_open() const { return fd_ >= 0; }

  /// All of `size` bytes, or false.
  bool Read(uint64_t address, void* out, size_t size) const;
  bool Write(uint64_t address, const void* bytes, size_t size) const;

  /// Copies a string with its NUL; returns its length without, -1 when it cannot be read, -2 when it has `room` bytes
  /// or more.
  int ReadString(uint64_t address, char* out, size_t room) const;

  template <typename Value>
  bool ReadValue(uint64_t address, Value* value) const {
    return Read(address, value, sizeof *value);
  }

 private:
  int fd_ = -1;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_TOOL_MEMORY_H_
