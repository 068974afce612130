#include "engine/kvm_device.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "engine/kvm_lists.h"
#include "error.h"

namespace penumbra {

namespace {

constexpr int kApiVersion = 12;

struct Requirement {
  int capability;
  int bits;  ///< of the capability's value; 0 for any but zero
  const char* meaning;
};

// The youngest of them came with Linux 4.17.
constexpr Requirement kRequirements[] = {
    {KVM_CAP_USER_MEMORY, 0, "memory of the caller"},
    {KVM_CAP_SYNC_MMU, 0, "following changes of the caller's mappings"},
    {KVM_CAP_EXT_CPUID, 0, "telling the processor's features"},
    {KVM_CAP_VCPU_EVENTS, 0, "clearing pending exceptions"},
    {KVM_CAP_SET_GUEST_DEBUG, 0, "single steps"},
    {KVM_CAP_IMMEDIATE_EXIT, 0, "ending a run"},
    {KVM_CAP_SYNC_REGS, KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS, "shared registers"},
};

int OpenDevice(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd >= 0) return fd;
  if (errno == EACCES || errno == EPERM) {
    throw SystemError("PERMISSION", "cannot open " + path + " (the group kvm may, normally)");
  }
  const bool absent = errno == ENOENT || errno == ENXIO || errno == ENODEV;
  throw SystemError("UNSUPPORTED", absent ? "there is no KVM at " + path : "cannot open " + path);
}

}  // namespace

KvmDescriptor::~KvmDescriptor() {
  if (fd_ >= 0) close(fd_);
}

KvmDevice::KvmDevice(const std::string& path) : path_(path), fd_(OpenDevice(path)) {
  const int version = ioctl(fd(), KVM_GET_API_VERSION, 0);
  if (version < 0) throw Error("UNSUPPORTED", path + " is not KVM");
  if (version != kApiVersion) {
    throw Error("UNSUPPORTED", path + " speaks version " + std::to_string(version) + " of KVM's interface, not 12");
  }
  for (const Requirement& requirement : kRequirements) {
    const int value = Capability(requirement.capability);
    if (requirement.bits == 0 ? value > 0 : (value & requirement.bits) == requirement.bits) continue;
    throw Error("UNSUPPORTED", path + " lacks " + requirement.meaning + " (KVM capability " +
                                   std::to_string(requirement.capability) + ")");
  }
  const int size = ioctl(fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (size < static_cast<int>(sizeof(kvm_run))) throw Error("UNSUPPORTED", path + " shares too little with its caller");
  run_size_ = static_cast<size_t>(size);
}

int KvmDevice::Capability(int capability) const { return ioctl(fd(), KVM_CHECK_EXTENSION, capability); }

std::vector<CpuidLeaf> KvmDevice::SupportedCpuid() const {
  KvmCpuid cpuid{};
  cpuid.count = KvmCpuid::kMostEntries;
  if (ioctl(fd(), kKvmGetSupportedCpuid, &cpuid) < 0) throw SystemError("ENGINE", "KVM tells no CPU features");
  std::vector<CpuidLeaf> leaves;
  for (uint32_t i = 0; i < cpuid.count; ++i) {
    const kvm_cpuid_entry2& entry = cpuid.entries[i];
    leaves.push_back({entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx});
  }
  return leaves;
}

}  // namespace penumbra
