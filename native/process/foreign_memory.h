// Memory of another process: that of a hypervisor whose guest RAM nobody else can map.
#ifndef PENUMBRA_NATIVE_PROCESS_FOREIGN_MEMORY_H_
#define PENUMBRA_NATIVE_PROCESS_FOREIGN_MEMORY_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace penumbra {

/// Reads through an open /proc/PID/mem, which stays bound to the address space it was opened for, whatever becomes of
/// the pid. Any thread may call it.
class ForeignMemory {
 public:
  struct Piece {
    uint64_t address;  ///< in the other process
    void* out;
    uint64_t length;
  };
  struct Run {
    uint64_t address;
    uint64_t size;
  };

  /// Keeps a duplicate of `memory_fd`, which is open for reading. `pid` is the process that it belongs to, 0 where that
  /// is not known. Throws Error ENGINE.
  ForeignMemory(pid_t pid, int memory_fd);
  ~ForeignMemory();
  ForeignMemory(const ForeignMemory&) = delete;
  ForeignMemory& operator=(const ForeignMemory&) = delete;

  /// False when not all of it is there, or the process has ended. Async-signal-safe.
  bool Read(uint64_t address, void* out, uint64_t length) const noexcept;

  /// Reads one piece after the other and returns how many were read before the first that is not there. Many pieces
  /// cost one system call.
  size_t ReadScattered(std::span<const Piece> pieces) const;

  /// Runs of [address, address + size) that have ever been written to, in order; all of it where that cannot be asked.
  std::vector<Run> FindPopulated(uint64_t address, uint64_t size) const;

 private:
  size_t ReadBatch(std::span<const Piece> pieces) const;

  pid_t pid_;
  int fd_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_FOREIGN_MEMORY_H_
