// Registers of a KVM guest's vCPUs out of the memory that KVM shares with its hypervisor.
#ifndef PENUMBRA_NATIVE_HYPERVISOR_VCPU_PAGES_H_
#define PENUMBRA_NATIVE_HYPERVISOR_VCPU_PAGES_H_

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "hypervisor/registers.h"

struct kvm_run;

namespace penumbra {

/// Maps each vCPU's `struct kvm_run`. KVM writes the registers there on every return to the hypervisor that finds
/// `kvm_valid_regs` set (Documentation/virt/kvm/api.rst, KVM_CAP_SYNC_REGS; Linux 4.17), and reads nothing of it. QEMU
/// does not use it on x86. No system call is needed, and none is made in the hypervisor's name.
class VcpuPages {
 public:
  /// `fds` are duplicates of the vCPUs' descriptors in process `pid`, in the order of vCPU numbers; they may be closed
  /// afterwards. Throws Error("UNSUPPORTED") where they cannot be mapped, "GUEST_GONE".
  VcpuPages(pid_t pid, const std::vector<int>& fds);
  /// Disarms.
  ~VcpuPages();
  VcpuPages(const VcpuPages&) = delete;
  VcpuPages& operator=(const VcpuPages&) = delete;

  size_t size() const { return runs_.size(); }

  /// From now on KVM leaves the registers of a vCPU that stops. To be called before the vCPUs are stopped.
  void Arm() noexcept;
  void Disarm() noexcept;

  /// The registers of all vCPUs, which stand still, and disarms. False when one has not come out of the guest since
  /// Arm, so that its registers are not there.
  bool Read(std::vector<VcpuState>* states);

  /// Whether these are all vCPUs that the process has, or some were plugged or unplugged.
  bool AreAll();

  /// Takes note of the kernel's GS bases, which KVM does not leave here: `states` are the same vCPUs' by another way.
  void Remember(const std::vector<VcpuState>& states);

 private:
  pid_t pid_;
  int threads_fd_;
  std::vector<kvm_run*> runs_;
  std::vector<uint64_t> kernel_bases_;
  uint64_t threads_ = 0;  ///< of the process when its vCPUs were counted last
};

/// Whether both ways of reading give the same, kernel_gs_base aside.
bool SameRegisters(std::vector<VcpuState> a, const std::vector<VcpuState>& b);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_HYPERVISOR_VCPU_PAGES_H_
