// One KVM virtual machine with one virtual CPU over memory that somebody else owns: the ioctls, and nothing of what
// they are used for. No interrupt controller: nothing ever interrupts the code that runs in it.
#ifndef PENUMBRA_NATIVE_ENGINE_KVM_VM_H_
#define PENUMBRA_NATIVE_ENGINE_KVM_VM_H_

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/kvm_device.h"
#include "engine/kvm_lists.h"
#include "engine/kvm_statistics.h"
#include "memory/region_table.h"

namespace penumbra {

class KvmVm {
 public:
  /// `regions` must outlive the machine; what is mapped at their addresses may change, KVM follows. Throws Error
  /// ENGINE.
  KvmVm(const KvmDevice& device, const std::vector<MappedRegion>& regions);
  ~KvmVm();
  KvmVm(const KvmVm&) = delete;
  KvmVm& operator=(const KvmVm&) = delete;

  /// Runs the virtual CPU until it needs something. Returns 0, or errno: EINTR after a signal or with SetImmediateExit.
  int Run();

  /// Why the last Run() returned; the structure that the kernel shares.
  kvm_run& run() { return *run_; }

  /// The general registers as of the last Run(). Changes count after RegistersChanged().
  kvm_regs& registers() { return run_->s.regs.regs; }
  void RegistersChanged() { run_->kvm_dirty_regs |= KVM_SYNC_X86_REGS; }

  /// While set, Run() completes what the last one left to do and returns EINTR. Any thread may call it.
  void SetImmediateExit(bool value) { __atomic_store_n(&run_->immediate_exit, value ? 1 : 0, __ATOMIC_SEQ_CST); }

  /// Counts from the next Run(), which returns EINVAL when KVM refuses them.
  void SetSystemRegisters(const kvm_sregs& registers);

  /// All of these throw Error ENGINE when KVM refuses.
  kvm_sregs GetSystemRegisters() const;
  /// Forgets exceptions that were about to be delivered when a run was given up.
  void ClearEvents();
  void SetSingleStep(bool on);

  /// Sets them in their order and returns how many: KVM stops at one that it does not have or whose value it refuses.
  /// Does nothing when they were set to the same the last time.
  uint32_t SetMsrs(const KvmMsrs& msrs);
  /// After code that may have been interrupted between two that belong together.
  void ForgetMsrs() { msrs_.reset(); }

  /// Sets the time-stamp counter, which runs on from there. False when KVM refuses.
  bool SetCounter(uint64_t value);
  /// What the counter is now, where this KVM lets that be told.
  std::optional<uint64_t> Counter() const;

  /// False when this KVM has no such register or does not take the value.
  bool SetXcr0(uint64_t value);

  const KvmStatistics& statistics() const { return statistics_; }

 private:
  void AddMemory(const std::vector<MappedRegion>& regions);
  void SetCpuid(const KvmDevice& device);
  uint32_t WriteMsrs(const KvmMsrs& msrs);

  KvmDescriptor vm_;
  KvmDescriptor vcpu_;
  KvmStatistics statistics_;
  size_t run_size_;
  kvm_run* run_ = nullptr;
  bool stepping_ = false;
  std::optional<uint64_t> xcr0_;            ///< as it was set last
  std::optional<KvmMsrs> msrs_;             ///< as they were set last
  uint32_t msrs_set_ = 0;                   ///< so many of them
  std::optional<uint64_t> counter_offset_;  ///< from the host's counter
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_KVM_VM_H_
