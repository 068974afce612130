#include "hypervisor/vcpu_pages.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>

#include "error.h"

namespace penumbra {

namespace {

// All that is used of kvm_run lies in its first page.
constexpr size_t kMapped = 4096;
static_assert(sizeof(kvm_run) <= kMapped);

constexpr uint64_t kUpperHalf = uint64_t{1} << 63;

bool IsUser(const VcpuState& state) { return (state.cs & 3) == 3; }

// The two GS bases are only ever exchanged (SWAPGS): the kernel's, which belongs to the vCPU for good, is in one of
// them.
uint64_t KernelBase(const VcpuState& state) {
  return !IsUser(state) && (state.gs_base & kUpperHalf) != 0 ? state.gs_base : state.kernel_gs_base;
}

VcpuState StateOf(const kvm_sync_regs& sync, uint64_t kernel_base) {
  const kvm_regs& r = sync.regs;
  const kvm_sregs& s = sync.sregs;
  VcpuState state{};
  const uint64_t gpr[16] = {r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp,
                            r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  std::memcpy(state.gpr, gpr, sizeof gpr);
  state.rip = r.rip;
  state.rflags = static_cast<uint32_t>(r.rflags);
  state.cs = s.cs.selector;
  state.ss = s.ss.selector;
  state.ds = s.ds.selector;
  state.es = s.es.selector;
  state.fs = s.fs.selector;
  state.gs = s.gs.selector;
  state.fs_base = s.fs.base;
  state.gs_base = s.gs.base;
  state.cr0 = s.cr0;
  state.cr2 = s.cr2;
  state.cr3 = s.cr3;
  state.cr4 = s.cr4;
  state.cr8 = s.cr8;
  state.efer = s.efer;
  state.kernel_gs_base = IsUser(state) || state.gs_base != kernel_base ? kernel_base : 0;
  return state;
}

// The kernel shows a vCPU's descriptor under this name (virt/kvm/kvm_main.c, create_vcpu_fd).
size_t CountVcpus(pid_t pid) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(folder.c_str()), closedir);
  if (!directory) return 0;
  size_t count = 0;
  while (const dirent* entry = readdir(directory.get())) {
    char target[64];
    const ssize_t length = readlinkat(dirfd(directory.get()), entry->d_name, target, sizeof target);
    if (length > 0 && std::string_view(target, length).starts_with("anon_inode:kvm-vcpu:")) count++;
  }
  return count;
}

int OpenThreads(pid_t pid) {
  const int fd = open(("/proc/" + std::to_string(pid) + "/task").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) throw SystemError("GUEST_GONE", "the hypervisor's threads are not to be seen");
  return fd;
}

// Threads of a process, and a constant: the links of /proc/PID/task (fs/proc/base.c, proc_task_getattr).
uint64_t CountThreads(int threads_fd) {
  struct stat status;
  return fstat(threads_fd, &status) == 0 ? status.st_nlink : 0;
}

}  // namespace

VcpuPages::VcpuPages(pid_t pid, const std::vector<int>& fds)
    : pid_(pid), threads_fd_(OpenThreads(pid)), kernel_bases_(fds.size()) {
  for (const int fd : fds) {
    // Safe: KVM backs the first page of a vCPU's descriptor by kvm_run for as long as it is mapped.
    void* const page = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
      const Error error = SystemError("UNSUPPORTED", "the memory that KVM shares with QEMU cannot be mapped");
      for (kvm_run* const run : runs_) munmap(run, kMapped);
      close(threads_fd_);
      throw error;
    }
    runs_.push_back(static_cast<kvm_run*>(page));
  }
}

VcpuPages::~VcpuPages() {
  Disarm();
  for (kvm_run* const run : runs_) munmap(run, kMapped);
  close(threads_fd_);
}

void VcpuPages::Arm() noexcept {
  for (kvm_run* const run : runs_) {
    // No processor has flags of 0: bit 1 is always set (Intel SDM volume 1, 3.4.3).
    std::atomic_ref<__u64>(run->s.regs.regs.rflags).store(0);
    std::atomic_ref<__u64>(run->kvm_valid_regs).store(KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS);
  }
}

void VcpuPages::Disarm() noexcept {
  for (kvm_run* const run : runs_) std::atomic_ref<__u64>(run->kvm_valid_regs).store(0);
}

bool VcpuPages::Read(std::vector<VcpuState>* states) {
  states->clear();
  Disarm();
  for (size_t vcpu = 0; vcpu < runs_.size(); vcpu++) {
    const kvm_sync_regs& sync = runs_[vcpu]->s.regs;
    if (sync.regs.rflags == 0) return false;
    states->push_back(StateOf(sync, kernel_bases_[vcpu]));
  }
  return true;
}

void VcpuPages::Remember(const std::vector<VcpuState>& states) {
  for (size_t vcpu = 0; vcpu < std::min(states.size(), kernel_bases_.size()); vcpu++) {
    kernel_bases_[vcpu] = KernelBase(states[vcpu]);
  }
}

// A vCPU that is plugged comes with a thread.
bool VcpuPages::AreAll() {
  const uint64_t threads = CountThreads(threads_fd_);
  if (threads != threads_ && CountVcpus(pid_) != runs_.size()) return false;
  threads_ = threads;
  return threads != 0;
}

bool SameRegisters(std::vector<VcpuState> a, const std::vector<VcpuState>& b) {
  for (size_t i = 0; i < std::min(a.size(), b.size()); i++) a[i].kernel_gs_base = b[i].kernel_gs_base;
  return a == b;
}

}  // namespace penumbra
