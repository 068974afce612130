// What KVM counts by itself for a virtual CPU.
#ifndef PENUMBRA_NATIVE_ENGINE_KVM_STATISTICS_H_
#define PENUMBRA_NATIVE_ENGINE_KVM_STATISTICS_H_

#include <cstdint>

#include "engine/kvm_device.h"

namespace penumbra {

/// The statistics file of a virtual CPU: Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD; since Linux 5.14.
class KvmStatistics {
 public:
  /// `vcpu` need not outlive it.
  explicit KvmStatistics(int vcpu);

  /// Exits from guest code, those included that the host's kernel served by itself (page faults of the second level).
  /// 0 where the kernel has no such statistics.
  uint64_t exits() const;

 private:
  KvmDescriptor file_;
  int64_t exits_at_ = -1;  ///< where the number is in the file
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_KVM_STATISTICS_H_
