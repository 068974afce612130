#include "engine/kvm_state.h"

#include "error.h"

namespace penumbra {

namespace {

constexpr uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr uint32_t kMsrTscAux = 0xc0000103;

// EFER: system calls, long mode enabled and active, no-execute pages. SVME and the like have no meaning here.
constexpr uint64_t kEferLongMode = 0x500;
constexpr uint64_t kEferKept = 0xd01;
// CR4: VME to OSXMMEXCPT, UMIP, LA57, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP, PKE. Left out are virtualization of the
// guest's own (VMXE), SMXE, and CET, which does nothing at this privilege level while its MSR is 0.
constexpr uint64_t kCr4Kept = 0x00771fff;

constexpr uint64_t kCr4OsXsave = 1 << 18;
constexpr uint64_t kXcr0Legacy = 3;  // x87 and SSE

constexpr uint64_t kFlagsInterruptsEnabled = 0x202;

// arch/x86/include/asm/segment.h: unchanged since there is a 64-bit kernel.
constexpr uint16_t kKernelCode = 0x10;
constexpr uint16_t kKernelData = 0x18;
constexpr uint16_t kTaskState = 0x40;
// TSS and I/O bitmap; whoever finds it shorter gets no ports, which nothing at privilege level 0 asks for.
constexpr uint32_t kTaskStateLimit = 0x4087;

// Segment types: Intel SDM volume 3, tables 3-1 and 3-2.
constexpr uint8_t kDataAccessed = 3;
constexpr uint8_t kCodeAccessed = 11;
constexpr uint8_t kBusyTaskState = 11;
constexpr uint8_t kLocalTable = 2;

kvm_segment FlatSegment(uint16_t selector, uint8_t type, uint64_t base) {
  kvm_segment segment{};
  segment.selector = selector;
  segment.type = type;
  segment.base = base;
  segment.limit = 0xffffffff;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  if (type == kCodeAccessed) {
    segment.l = 1;
  } else {
    segment.db = 1;
  }
  return segment;
}

kvm_segment TaskState(uint64_t base) {
  kvm_segment segment{};
  segment.selector = kTaskState;
  segment.type = kBusyTaskState;
  segment.base = base;
  segment.limit = kTaskStateLimit;
  segment.present = 1;
  return segment;
}

kvm_segment NoLocalTable() {
  kvm_segment segment{};
  segment.type = kLocalTable;
  segment.unusable = 1;
  return segment;
}

void LoadCounter(const CounterRange& range, KvmVm* vm) {
  const std::optional<uint64_t> now = vm->Counter();
  if (now && *now >= range.from && *now <= range.to) return;
  if (!vm->SetCounter(range.from)) throw Error("ENGINE", "KVM: cannot set the counter");
}

}  // namespace

void LoadState(const CpuContext& context, const kvm_sregs& pristine, KvmVm* vm) {
  kvm_sregs registers = pristine;
  registers.cs = FlatSegment(kKernelCode, kCodeAccessed, 0);
  registers.ss = FlatSegment(kKernelData, kDataAccessed, 0);
  registers.ds = FlatSegment(0, kDataAccessed, 0);
  registers.es = FlatSegment(0, kDataAccessed, 0);
  registers.fs = FlatSegment(0, kDataAccessed, context.fs_base);
  registers.gs = FlatSegment(0, kDataAccessed, context.gs_base);
  registers.tr = TaskState(context.tss_base);
  registers.ldt = NoLocalTable();
  registers.gdt.base = context.gdt_base;
  registers.gdt.limit = static_cast<uint16_t>(context.gdt_limit);
  registers.idt.base = context.idt_base;
  registers.idt.limit = static_cast<uint16_t>(context.idt_limit);
  registers.cr0 = context.cr0;
  registers.cr2 = 0;
  registers.cr3 = context.cr3;
  registers.cr4 = context.cr4 & kCr4Kept;
  registers.cr8 = 0;
  registers.efer = (context.efer & kEferKept) | kEferLongMode;
  vm->SetSystemRegisters(registers);
  vm->SetSingleStep(false);
  vm->run().cr8 = 0;
  // A host without some of these features will do: calls are kept from using them.
  if ((registers.cr4 & kCr4OsXsave) != 0 && !vm->SetXcr0(context.xcr0)) vm->SetXcr0(kXcr0Legacy);
  KvmMsrs msrs;
  msrs.Add(kMsrKernelGsBase, context.kernel_gs_base);
  // Last: processors without RDTSCP have no such register.
  msrs.Add(kMsrTscAux, context.cpu_number);
  if (vm->SetMsrs(msrs) < msrs.count - 1) throw Error("ENGINE", "KVM: cannot set the other GS base");
  if (context.tsc) LoadCounter(*context.tsc, vm);
}

kvm_regs RegistersOf(const CallRegisters& call) {
  kvm_regs registers{};
  registers.rip = call.function;
  registers.rsp = call.stack;
  registers.rdi = call.arguments[0];
  registers.rsi = call.arguments[1];
  registers.rdx = call.arguments[2];
  registers.rcx = call.arguments[3];
  registers.r8 = call.arguments[4];
  registers.r9 = call.arguments[5];
  registers.rflags = kFlagsInterruptsEnabled;
  return registers;
}

}  // namespace penumbra
