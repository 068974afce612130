// Addresses of ours whose access may fail with SIGBUS, and who repairs that.
#ifndef PENUMBRA_NATIVE_MEMORY_FAULT_RANGE_H_
#define PENUMBRA_NATIVE_MEMORY_FAULT_RANGE_H_

#include <cstddef>
#include <cstdint>

namespace penumbra {

class FaultHandler {
 public:
  virtual ~FaultHandler() = default;
  /// Makes `address` accessible, on the thread that touched it and in a signal handler: only async-signal-safe
  /// functions. False when it cannot; the signal then takes its course.
  virtual bool OnFault(uint64_t address) noexcept = 0;
};

/// While it exists, a SIGBUS in [start, start + size) is the handler's. The first one installs this process's handler
/// of SIGBUS, which passes on what falls into no range.
class FaultRange {
 public:
  /// Throws Error ENGINE when there are too many.
  FaultRange(const void* start, uint64_t size, FaultHandler* handler);
  /// Nobody may touch the range any more.
  ~FaultRange();
  FaultRange(const FaultRange&) = delete;
  FaultRange& operator=(const FaultRange&) = delete;

 private:
  size_t slot_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_FAULT_RANGE_H_
