#include "hypervisor/vcpu_control.h"

#include <string_view>
#include <utility>

#include "error.h"

namespace penumbra {

namespace {

// QEMU gives 32 bits of the registers of a vCPU in 32-bit mode: one difference means nothing.
constexpr int kMostDifferences = 8;

}  // namespace

void VcpuControl::UsePages(std::unique_ptr<VcpuPages> pages, const std::vector<pid_t>& threads) {
  pages_ = std::move(pages);
  hold_ = std::make_unique<ThreadHold>(threads);
  refusal_ = "the vCPUs' registers have not been compared yet";
}

std::vector<VcpuState> VcpuControl::Connect(bool found_running, Deadline deadline) {
  // QEMU stops the guest when it opens the stub.
  if (pages_) pages_->Arm();
  stub_->Handshake(found_running, deadline);
  stub_->RequestRegisters(deadline);
  std::vector<VcpuState> states = stub_->ReceiveRegisters(deadline);
  Judge(states);
  stub_->Resume();
  return states;
}

void VcpuControl::BeginStop(Stop kind, Deadline deadline) {
  if (kind == Stop::kShort && trusted_ && BeginHold()) return;
  BeginStubStop(deadline);
}

// False where somebody else traces QEMU for now, a debugger for instance, or the right to trace it was taken away.
bool VcpuControl::BeginHold() {
  pages_->Arm();
  try {
    hold_->Begin();
  } catch (const Error& error) {
    pages_->Disarm();
    const std::string_view code = error.code();
    if (code == "GUEST_GONE") {
      // Or its vCPU was unplugged: QEMU itself is asked then.
      GiveUp(error.what());
      return false;
    }
    if (code != "PERMISSION") throw;
    refusal_ = error.what();
    return false;
  }
  refusal_.clear();
  held_ = true;
  return true;
}

void VcpuControl::BeginStubStop(Deadline deadline) {
  if (pages_) pages_->Arm();
  stub_->InterruptAndRequestRegisters(deadline);
}

void VcpuControl::AwaitStop(Deadline deadline) {
  if (held_) {
    hold_->Await(deadline);
    if (!pages_->AreAll()) GiveUp("vCPUs were plugged or unplugged");
    if (trusted_ && pages_->Read(&held_states_)) return;
    // One of them was not in the guest but in QEMU, with an access to a device for instance, or had been stopped.
    held_ = false;
    hold_->Release();
    BeginStubStop(deadline);
  }
  stub_->AwaitStop(deadline);
}

std::vector<VcpuState> VcpuControl::ReceiveRegisters(Deadline deadline) {
  if (held_) return held_states_;
  std::vector<VcpuState> states = stub_->ReceiveRegisters(deadline);
  Judge(states);
  return states;
}

void VcpuControl::Resume() {
  if (pages_) pages_->Disarm();
  if (std::exchange(held_, false)) {
    hold_->Release();
  } else {
    stub_->Resume();
  }
}

void VcpuControl::Detach(Deadline deadline) {
  if (held_) Resume();
  pages_ = nullptr;
  trusted_ = false;
  stub_->Detach(deadline);
}

VcpuControl::Comparison VcpuControl::Compare(Deadline deadline) {
  Comparison comparison;
  WhileStanding([&] {
    BeginStubStop(deadline);
    stub_->AwaitStop(deadline);
    comparison.by_stub = stub_->ReceiveRegisters(deadline);
    if (!pages_) return;
    pages_->Remember(comparison.by_stub);
    if (!pages_->Read(&comparison.by_pages)) comparison.by_pages.clear();
  });
  return comparison;
}

VcpuControl::Times VcpuControl::Measure(Stop kind, Deadline deadline) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  Clock::time_point stopped;
  Clock::time_point received;
  WhileStanding([&] {
    BeginStop(kind, deadline);
    AwaitStop(deadline);
    stopped = Clock::now();
    ReceiveRegisters(deadline);
    received = Clock::now();
  });
  return {stopped - begin, received - stopped, Clock::now() - received};
}

template <typename Look>
void VcpuControl::WhileStanding(Look look) {
  try {
    look();
  } catch (const Error&) {
    Resume();
    throw;
  }
  Resume();
}

// The stub's answer is at hand: does the other way give the same?
void VcpuControl::Judge(const std::vector<VcpuState>& by_stub) {
  if (!pages_) return;
  pages_->Remember(by_stub);
  const bool left = pages_->Read(&held_states_);
  if (trusted_ || differences_ > kMostDifferences || !left) return;
  if (SameRegisters(held_states_, by_stub)) {
    trusted_ = true;
    refusal_.clear();
  } else if (++differences_ > kMostDifferences) {
    GiveUp("KVM's account of the vCPUs' registers differs from QEMU's");
  }
}

void VcpuControl::GiveUp(const std::string& why) {
  trusted_ = false;
  differences_ = kMostDifferences + 1;
  refusal_ = why;
}

}  // namespace penumbra
