#include "engine/kvm_vm.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <x86intrin.h>

#include <string>

#include "error.h"

#ifndef KVM_VCPU_TSC_CTRL  // since 5.16
#define KVM_VCPU_TSC_CTRL 0
#define KVM_VCPU_TSC_OFFSET 0
#endif

namespace penumbra {

namespace {

constexpr uint32_t kMsrTsc = 0x10;

// Three pages that Intel processors without "unrestricted guest" need below 4 GiB, where QEMU has them too.
constexpr unsigned long kTssAddress = 0xfeffd000;

int Control(int fd, unsigned long request, const void* argument, const char* what) {
  const int result = ioctl(fd, request, argument);
  if (result < 0) throw SystemError("ENGINE", std::string("KVM: ") + what);
  return result;
}

int CreateVm(const KvmDevice& device) {
  int fd;
  // A signal may end the creation of the structures behind a machine early.
  do fd = ioctl(device.fd(), KVM_CREATE_VM, 0);
  while (fd < 0 && errno == EINTR);
  if (fd < 0) throw SystemError("ENGINE", "KVM: cannot create a machine");
  return fd;
}

}  // namespace

KvmVm::KvmVm(const KvmDevice& device, const std::vector<MappedRegion>& regions)
    : vm_(CreateVm(device)),
      vcpu_((ioctl(vm_.get(), KVM_SET_TSS_ADDR, kTssAddress),
             Control(vm_.get(), KVM_CREATE_VCPU, nullptr, "cannot create a processor"))),
      statistics_(vcpu_.get()),
      run_size_(device.run_size()) {
  if (device.Capability(KVM_CAP_NR_MEMSLOTS) < static_cast<int>(regions.size())) {
    throw Error("ENGINE", "KVM: the guest's memory is in more pieces than KVM takes");
  }
  AddMemory(regions);
  SetCpuid(device);
  if (device.Capability(KVM_CAP_X86_USER_SPACE_MSR) > 0) {
    kvm_enable_cap enable{};
    enable.cap = KVM_CAP_X86_USER_SPACE_MSR;
    enable.args[0] = KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN;
    Control(vm_.get(), KVM_ENABLE_CAP, &enable, "cannot take over unknown MSRs");
  }
  // Safe: the kernel chooses the address and the size is the one it asked for.
  void* run = mmap(nullptr, run_size_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_.get(), 0);
  if (run == MAP_FAILED) throw SystemError("ENGINE", "KVM: cannot map what the processor shares");
  run_ = static_cast<kvm_run*>(run);
  run_->kvm_valid_regs = KVM_SYNC_X86_REGS;
}

KvmVm::~KvmVm() {
  if (run_ != nullptr) munmap(run_, run_size_);
}

void KvmVm::AddMemory(const std::vector<MappedRegion>& regions) {
  uint32_t slot = 0;
  for (const MappedRegion& region : regions) {
    kvm_userspace_memory_region memory{};
    memory.slot = slot++;
    memory.guest_phys_addr = region.gpa;
    memory.memory_size = region.size;
    memory.userspace_addr = reinterpret_cast<uint64_t>(region.host);
    Control(vm_.get(), KVM_SET_USER_MEMORY_REGION, &memory, "cannot add memory");
  }
}

void KvmVm::SetCpuid(const KvmDevice& device) {
  KvmCpuid cpuid{};
  for (const CpuidLeaf& leaf : device.SupportedCpuid()) {
    kvm_cpuid_entry2& entry = cpuid.entries[cpuid.count++];
    entry.function = leaf.function;
    entry.index = leaf.index;
    entry.flags = leaf.flags;
    entry.eax = leaf.eax;
    entry.ebx = leaf.ebx;
    entry.ecx = leaf.ecx;
    entry.edx = leaf.edx;
  }
  Control(vcpu_.get(), kKvmSetCpuid2, &cpuid, "cannot set the processor's features");
}

int KvmVm::Run() { return ioctl(vcpu_.get(), KVM_RUN, 0) < 0 ? errno : 0; }

kvm_sregs KvmVm::GetSystemRegisters() const {
  kvm_sregs registers;
  Control(vcpu_.get(), KVM_GET_SREGS, &registers, "cannot read system registers");
  return registers;
}

void KvmVm::SetSystemRegisters(const kvm_sregs& registers) {
  run_->s.regs.sregs = registers;
  run_->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

bool KvmVm::SetXcr0(uint64_t value) {
  if (xcr0_ == value) return true;
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = value;
  if (ioctl(vcpu_.get(), KVM_SET_XCRS, &xcrs) < 0) return false;
  xcr0_ = value;
  return true;
}

void KvmVm::ClearEvents() {
  const kvm_vcpu_events events{};
  Control(vcpu_.get(), KVM_SET_VCPU_EVENTS, &events, "cannot clear pending events");
}

void KvmVm::SetSingleStep(bool on) {
  if (stepping_ == on) return;
  // KVM makes a step of the instruction at which the registers stand now, not of the one that they are about to be set
  // to.
  if ((run_->kvm_dirty_regs & KVM_SYNC_X86_REGS) != 0) {
    Control(vcpu_.get(), KVM_SET_REGS, &registers(), "cannot set registers");
    run_->kvm_dirty_regs &= ~uint64_t{KVM_SYNC_X86_REGS};
  }
  kvm_guest_debug debug{};
  if (on) debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  Control(vcpu_.get(), KVM_SET_GUEST_DEBUG, &debug, "cannot set single steps");
  stepping_ = on;
}

uint32_t KvmVm::SetMsrs(const KvmMsrs& msrs) {
  if (msrs_ == msrs) return msrs_set_;
  msrs_set_ = WriteMsrs(msrs);
  msrs_ = msrs;
  return msrs_set_;
}

// A value that is written to the counter's MSR does not count when it is less than a second from what is there: KVM
// takes it for one of several processors that are to be the same (arch/x86/kvm/x86.c, kvm_synchronize_tsc).
bool KvmVm::SetCounter(uint64_t value) {
  const uint64_t offset = value - __rdtsc();
  kvm_device_attr attribute{};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<uint64_t>(&offset);
  counter_offset_.reset();
  if (ioctl(vcpu_.get(), KVM_SET_DEVICE_ATTR, &attribute) == 0) {
    counter_offset_ = offset;
    return true;
  }
  KvmMsrs counter;
  counter.Add(kMsrTsc, value);
  return WriteMsrs(counter) == 1;
}

std::optional<uint64_t> KvmVm::Counter() const {
  if (!counter_offset_) return std::nullopt;
  return *counter_offset_ + __rdtsc();
}

uint32_t KvmVm::WriteMsrs(const KvmMsrs& msrs) {
  const int set = ioctl(vcpu_.get(), kKvmSetMsrs, &msrs);
  return set < 0 ? 0 : static_cast<uint32_t>(set);
}

}  // namespace penumbra
