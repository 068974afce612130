// The two structures of KVM's interface that end in a flexible array. Seen from C++ the kernel's headers give them
// another size, and with it another ioctl number; so both are written down here, with room for their entries.
#ifndef PENUMBRA_NATIVE_ENGINE_KVM_LISTS_H_
#define PENUMBRA_NATIVE_ENGINE_KVM_LISTS_H_

#include <linux/kvm.h>

#include <algorithm>
#include <cstdint>

namespace penumbra {

/// What the size in the ioctl numbers stands for: the structures without their entries.
using KvmListHeader = uint64_t;

inline constexpr unsigned long kKvmGetSupportedCpuid = _IOWR(KVMIO, 0x05, KvmListHeader);
inline constexpr unsigned long kKvmSetMsrs = _IOW(KVMIO, 0x89, KvmListHeader);
inline constexpr unsigned long kKvmSetCpuid2 = _IOW(KVMIO, 0x90, KvmListHeader);

/// struct kvm_cpuid2
struct KvmCpuid {
  static constexpr uint32_t kMostEntries = 256;  ///< KVM_MAX_CPUID_ENTRIES, arch/x86/include/asm/kvm_host.h
  uint32_t count;  ///< of `entries`: room for them when KVM is asked, what there is when it answers
  uint32_t padding;
  kvm_cpuid_entry2 entries[kMostEntries];
};

/// struct kvm_msrs
struct KvmMsrs {
  static constexpr uint32_t kMostEntries = 4;
  uint32_t count = 0;  ///< of `entries`
  uint32_t padding = 0;
  kvm_msr_entry entries[kMostEntries]{};

  void Add(uint32_t index, uint64_t value) {
    entries[count].index = index;
    entries[count++].data = value;
  }

  bool operator==(const KvmMsrs& other) const {
    const auto same = [](const kvm_msr_entry& a, const kvm_msr_entry& b) {
      return a.index == b.index && a.data == b.data;
    };
    return std::equal(entries, entries + count, other.entries, other.entries + other.count, same);
  }
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_KVM_LISTS_H_
