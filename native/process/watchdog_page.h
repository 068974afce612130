// The page that penumbra shares with its watchdog.
#ifndef PENUMBRA_NATIVE_PROCESS_WATCHDOG_PAGE_H_
#define PENUMBRA_NATIVE_PROCESS_WATCHDOG_PAGE_H_

#include <atomic>
#include <cstdint>

namespace penumbra {

/// What penumbra is doing to the guest. Set to kStanding before anything is sent that stops the guest, and
/// back only after what lets it run was sent.
enum class WatchdogPhase : uint32_t {
  kUnarmed,    // nothing was asked of QEMU yet
  kRunning,    // the stub is on, or being made; the guest is in the run state that others want
  kStanding,   // the guest stands still because of us, or may
  kDetaching,  // the stub is being taken down
  kReleased,   // nothing is left to do
};

/// Bytes for the QMP socket, and the id in the last reply to them.
struct WatchdogScript {
  uint32_t size;
  char last_id[60];  // ends with a zero
  char bytes[1600];
};

struct WatchdogPage {
  std::atomic<uint32_t> phase;
  std::atomic<uint32_t> found_running;  // 0 = the guest was paused when penumbra came
  uint32_t vcpus;                       // descriptors from kWatchdogFirstVcpuFd on
  WatchdogScript undo;                  // takes the stub down, whatever of it exists
  WatchdogScript resume;                // lets the guest run
};

static_assert(sizeof(WatchdogPage) <= 4096);
static_assert(std::atomic<uint32_t>::is_always_lock_free);

// The file descriptors with which the watchdog is started.
constexpr int kWatchdogLifeFd = 3;  // end of file: penumbra is gone
constexpr int kWatchdogPageFd = 4;
constexpr int kWatchdogStubFd = 5;
constexpr int kWatchdogQmpFd = 6;
constexpr int kWatchdogFirstVcpuFd = 7;  // of a KVM guest: what VcpuPages asks of KVM is taken back
constexpr uint32_t kMostWatchedVcpus = 256;

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_WATCHDOG_PAGE_H_
