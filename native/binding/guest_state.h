// What the guest's thread works on.
#ifndef PENUMBRA_NATIVE_BINDING_GUEST_STATE_H_
#define PENUMBRA_NATIVE_BINDING_GUEST_STATE_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding/guest_memory.h"
#include "error.h"
#include "hypervisor/vcpu_control.h"
#include "memory/guest_ram.h"
#include "process/process_handle.h"
#include "redirect/past_run.h"
#include "shadow/shadow.h"

namespace penumbra {

/// What entering a shadow cost, and where.
struct EnterReport {
  std::chrono::steady_clock::duration stop, refresh, registers, load;
  StopClass stop_class;
  bool in_kernel, runs_on;
  uint32_t vcpu;
  size_t private_pages;
};

/// A look at the guest that was one batch.
struct AskReport {
  EnterReport entered;
  BatchResult result;
  std::chrono::steady_clock::duration standstill;
};

/// Everything of one guest that the guest's thread works on. Jobs share it, so that it outlives the JavaScript object.
struct GuestState {
  explicit GuestState(std::shared_ptr<const GuestRam> guest_ram) : ram(std::move(guest_ram)) {}

  std::shared_ptr<const GuestRam> ram;
  std::unique_ptr<VcpuControl> control;
  std::unique_ptr<const ProcessHandle> hypervisor;  ///< with `control`
  std::unique_ptr<Shadow> shadow;
  std::vector<VcpuState> vcpus;  ///< as of the last stop
  std::chrono::steady_clock::time_point stopped_at;
  Episode episode{0};
  PastRuns past_runs;  ///< of tools

  // What the guest's memory was may be relied on from here ...
  void Stands() { episode |= 1; }
  // ... to here, right before it runs.
  void Runs() { episode += episode & 1; }

  std::optional<std::string> gone;  ///< why the guest is no longer the one that was attached to

  /// after which the guest ran on although its shadow is still in use
  std::optional<std::chrono::steady_clock::duration> let_go;

  /// Stops the guest and loads the shadow; the guest stands still afterwards, whether or not that succeeded.
  EnterReport Enter(VcpuControl::Stop kind, std::chrono::steady_clock::time_point deadline);

  /// Lets the guest run on, then tidies up. Returns how long it stood still.
  std::chrono::steady_clock::duration Leave();

  /// Copies what the guest may change and lets it run on; returns the bytes copied.
  uint64_t LetGo();

  VcpuControl& RequireControl() {
    if (!control) throw Error("INTERNAL", "no gdbstub is connected");
    return *control;
  }
  /// For what begins a look at the guest; what ends one must work to the last.
  VcpuControl& RequireGuest() {
    RequirePresence();
    return RequireControl();
  }
  /// That the guest is still the one that was attached to.
  void RequirePresence() const {
    if (gone) throw Error("GUEST_GONE", *gone);
  }
  Shadow& RequireShadow() {
    if (!shadow) throw Error("INTERNAL", "no shadow was made");
    return *shadow;
  }

 private:
  void Resume();
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_GUEST_STATE_H_
