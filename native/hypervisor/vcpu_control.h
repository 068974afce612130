// Stops a guest's vCPUs, reads their registers and lets them run on, by the cheapest way that there is.
#ifndef PENUMBRA_NATIVE_HYPERVISOR_VCPU_CONTROL_H_
#define PENUMBRA_NATIVE_HYPERVISOR_VCPU_CONTROL_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "hypervisor/gdbstub.h"
#include "hypervisor/vcpu_pages.h"
#include "process/thread_hold.h"

namespace penumbra {

/// Two ways. The gdbstub always works: QEMU stops its machine, says so to everybody, and tells the registers. The other
/// is for short stops of KVM guests: the vCPUs' threads are held, and KVM has left the registers in memory that is
/// shared with QEMU. It is taken once both ways gave the same registers, and given up where a vCPU was not in the
/// guest.
///
/// Errors are those of GdbStub. One thread drives it, the same from the first call to the last.
class VcpuControl {
 public:
  /// How long the guest is going to stand. QEMU does not know of a guest that is held, so its clocks run on.
  enum class Stop { kShort, kLong };

  /// What the other way of reading said when the stub was asked.
  struct Comparison {
    std::vector<VcpuState> by_stub;
    std::vector<VcpuState> by_pages;  ///< empty where KVM left none
  };

  struct Times {
    Deadline::duration stop, registers, resume;
  };

  explicit VcpuControl(std::unique_ptr<GdbStub> stub) : stub_(std::move(stub)) {}

  /// From now on short stops hold `threads`, those that run the vCPUs of `pages`. Before Connect.
  void UsePages(std::unique_ptr<VcpuPages> pages, const std::vector<pid_t>& threads);

  /// The stub's handshake, and the registers meanwhile. Leaves the guest as it was found.
  std::vector<VcpuState> Connect(bool found_running, Deadline deadline);

  /// Orders the guest to stop. To be followed by AwaitStop and ReceiveRegisters, in any case by Resume.
  void BeginStop(Stop kind, Deadline deadline);
  /// Returns once the guest stands still.
  void AwaitStop(Deadline deadline);
  /// In the order of vCPU numbers.
  std::vector<VcpuState> ReceiveRegisters(Deadline deadline);
  /// Lets the guest run on, if it was not found standing.
  void Resume();
  /// Whether Resume will let it; while it stands.
  bool runs_on() const { return held_ || stub_->stopped_by_us(); }
  void Detach(Deadline deadline);

  /// Stops the guest by the stub, reads both ways and lets it run on.
  Comparison Compare(Deadline deadline);
  /// Stops the guest, reads the registers and lets it run on: what each takes.
  Times Measure(Stop kind, Deadline deadline);

  /// Whether short stops are made so, by the last of them.
  bool holds_threads() const { return trusted_ && refusal_.empty(); }
  /// Why not; empty where they are.
  const std::string& refusal() const { return refusal_; }

 private:
  bool BeginHold();
  void BeginStubStop(Deadline deadline);
  void Judge(const std::vector<VcpuState>& by_stub);
  void GiveUp(const std::string& why);
  template <typename Look>
  void WhileStanding(Look look);

  std::unique_ptr<GdbStub> stub_;
  std::unique_ptr<VcpuPages> pages_;
  std::unique_ptr<ThreadHold> hold_;
  std::vector<VcpuState> held_states_;
  bool held_ = false;
  bool trusted_ = false;  ///< both ways gave the same
  int differences_ = 0;
  std::string refusal_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_HYPERVISOR_VCPU_CONTROL_H_
