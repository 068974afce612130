// Starts the process that restores the guest's run state when penumbra is killed.
#ifndef PENUMBRA_NATIVE_PROCESS_WATCHDOG_H_
#define PENUMBRA_NATIVE_PROCESS_WATCHDOG_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "process/watchdog_page.h"

namespace penumbra {

/// What the watchdog writes on the QMP socket; `last_id` is the id in the last reply to it. May be of any QMP
/// command: the watchdog itself knows nothing of them.
struct WatchdogOrder {
  std::string bytes;
  std::string last_id;
};

class Watchdog {
 public:
  /// Starts `executable` (penumbra-watchdog) in a session of its own, with duplicates of the two sockets and of the KVM
  /// vCPUs that VcpuPages maps (256 at most). It is not armed before SetPhase. Throws Error("INTERNAL") when it cannot
  /// be started, "BAD_ARGUMENT" when an order is too long.
  Watchdog(const std::string& executable, int stub_fd, int qmp_fd, const std::vector<int>& vcpu_fds, bool found_running,
           const WatchdogOrder& undo, const WatchdogOrder& resume);
  /// Unless Release was called: to the watchdog the same as if this process had been killed.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  /// Has no effect after Release.
  void SetPhase(WatchdogPhase phase) noexcept {
    if (page_ != nullptr) page_->phase.store(static_cast<uint32_t>(phase));
  }
  pid_t pid() const { return pid_; }

  /// Tells the watchdog to end without doing anything, and waits for that. May be called twice, but not while another
  /// thread is in SetPhase.
  void Release() noexcept;

 private:
  WatchdogPage* page_;
  int life_fd_ = -1;  // the watchdog sees end of file when this is closed, by whatever means
  pid_t pid_ = -1;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_WATCHDOG_H_
