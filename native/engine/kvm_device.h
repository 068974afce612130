// The host's KVM, opened and found fit for running guest code.
#ifndef PENUMBRA_NATIVE_ENGINE_KVM_DEVICE_H_
#define PENUMBRA_NATIVE_ENGINE_KVM_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace penumbra {

/// A file descriptor with an owner.
class KvmDescriptor {
 public:
  KvmDescriptor() = default;
  explicit KvmDescriptor(int fd) : fd_(fd) {}
  ~KvmDescriptor();
  KvmDescriptor(const KvmDescriptor&) = delete;
  KvmDescriptor& operator=(const KvmDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

/// What one CPUID leaf may say to a virtual CPU: Intel SDM volume 2A, CPUID.
struct CpuidLeaf {
  uint32_t function;
  uint32_t index;
  uint32_t flags;  ///< KVM_CPUID_FLAG_*
  uint32_t eax, ebx, ecx, edx;
};

/// Documentation/virt/kvm/api.rst.
class KvmDevice {
 public:
  /// `path` is normally /dev/kvm. Throws Error UNSUPPORTED when there is no KVM or it lacks what the engine builds on,
  /// PERMISSION when it may not be opened.
  explicit KvmDevice(const std::string& path);

  int fd() const { return fd_.get(); }
  /// Bytes of a virtual CPU's kvm_run structure.
  size_t run_size() const { return run_size_; }

  /// The value of KVM_CHECK_EXTENSION: 0 when KVM does not know the capability.
  int Capability(int capability) const;

  /// CPUID as it is for a virtual CPU that has all that this KVM can give. Throws Error ENGINE.
  std::vector<CpuidLeaf> SupportedCpuid() const;

 private:
  std::string path_;
  KvmDescriptor fd_;
  size_t run_size_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_KVM_DEVICE_H_
