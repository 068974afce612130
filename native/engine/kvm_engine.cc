#include "engine/kvm_engine.h"

#include <cerrno>
#include <cstring>

#include "engine/cmpxchg16b.h"
#include "engine/kvm_state.h"
#include "engine/trap_code.h"
#include "memory/page_walk.h"
#include "process/thread_kick.h"

namespace penumbra {

namespace {

constexpr uint64_t kCr4La57 = 1 << 12;
constexpr uint64_t kLocalApic = 0xfee00000;
constexpr uint64_t kDoubleFault = 8;
constexpr uint64_t kPageFault = 14;
// An access that repeats itself (REP OUTS, REP MOVS to a device) is given up after this many turns.
constexpr int kMostTurns = 4096;
constexpr size_t kLongestInstruction = 15;

// MSRs that a kernel writes in passing, and what is written may be dropped: there is no other processor, no timer, and
// nothing to be protected from. Intel SDM volume 4, table 2-2.
bool IsHarmlessMsr(uint32_t index) {
  constexpr uint32_t kSpecCtrl = 0x48, kPredCmd = 0x49, kFlushCmd = 0x10b, kTscDeadline = 0x6e0;
  constexpr uint32_t kX2ApicFirst = 0x800, kX2ApicLast = 0x8ff;
  return index == kSpecCtrl || index == kPredCmd || index == kFlushCmd || index == kTscDeadline ||
         (index >= kX2ApicFirst && index <= kX2ApicLast);
}

}  // namespace

// For its life Interrupt() reaches the thread that made it.
class KvmEngine::Running {
 public:
  explicit Running(KvmEngine* engine) : engine_(engine) {
    const std::lock_guard lock(engine_->mutex_);
    engine_->running_ = pthread_self();
    engine_->interrupted_ = false;
    engine_->vm_->SetImmediateExit(false);
  }
  ~Running() {
    const std::lock_guard lock(engine_->mutex_);
    engine_->running_.reset();
  }
  bool Interrupted() const {
    const std::lock_guard lock(engine_->mutex_);
    return engine_->interrupted_;
  }

 private:
  KvmEngine* engine_;
};

KvmEngine::KvmEngine(const std::string& device, PrivateRam& memory) : memory_(memory), device_(device) {
  PrepareThreadKick(AfterKick::kRestart);
  CreateMachine();
}

KvmEngine::~KvmEngine() = default;

void KvmEngine::CreateMachine() {
  const std::lock_guard lock(mutex_);
  vm_.reset();
  vm_.emplace(device_, memory_.table().regions());
  pristine_ = vm_->GetSystemRegisters();
  broken_ = false;
}

void KvmEngine::SetTraps(const std::vector<Trap>& traps, TrapHandler* handler) {
  handler_ = handler;
  for (const Trap& trap : traps) {
    trap_at_[trap.address] = traps_.size();
    traps_.push_back({trap});
  }
}

void KvmEngine::Load(const CpuContext& context) {
  if (broken_) CreateMachine();
  context_ = context;
  PlantTraps();
  if (given_up_) vm_->ForgetMsrs();
  LoadState(context, pristine_, &*vm_);
  if (given_up_) vm_->ClearEvents();
  given_up_ = false;
}

// Most times all are there still. A call that did not return may have been in the middle of one.
void KvmEngine::PlantTraps() {
  if (planted_ == memory_.overlay_losses() && !given_up_ && !stepping_) return;
  stepping_.reset();
  bool stay = true;
  for (TrapSite& site : traps_) stay = PlantTrap(&site) && stay;
  planted_ = stay ? std::optional(memory_.overlay_losses()) : std::nullopt;
}

// False where it is gone with the next Refresh of the memory.
bool KvmEngine::PlantTrap(TrapSite* site) {
  site->code = nullptr;
  const Translation translation = Translate(memory_.table(), space(), site->trap.address);
  if (!translation.mapped() || !memory_.live().Copy(translation.gpa, &site->original, 1)) return false;
  site->code = memory_.table().At(translation.gpa, 1);
  TrapCode code{{kHalt}, 1};
  if (site->trap.returns) {
    const TrapCode returning = CodeThatReturns(*site->trap.returns);
    // Functions begin at multiples of 16: the code does not cross into another page, or the trap is asked instead.
    if (returning.size <= kPageSize - (translation.gpa & kPageMask)) code = returning;
  }
  return memory_.Overlay(translation.gpa, code.bytes.data(), code.size);
}

Outcome KvmEngine::Call(const CallRegisters& call, uint64_t return_address, uint64_t) {
  AcceptThreadKick(AfterKick::kRestart);
  const Running running(this);
  given_up_ = true;
  vm_->registers() = RegistersOf(call);
  vm_->RegistersChanged();
  for (;;) {
    const int error = vm_->Run();
    if (error == 0) {
      if (const std::optional<Outcome> outcome = HandleExit(return_address)) return *outcome;
    } else if (error == EINTR) {
      if (running.Interrupted()) return End(StopReason::kWatchdog, 0, 0);
    } else if (error != EAGAIN) {
      return Fail(static_cast<uint64_t>(error), 0);
    }
  }
}

void KvmEngine::Interrupt() {
  const std::lock_guard lock(mutex_);
  if (!running_) return;
  interrupted_ = true;
  // In this order: a run that begins after the flag ends at once, one that began before is reached by the signal.
  vm_->SetImmediateExit(true);
  KickThread(*running_, AfterKick::kRestart);
}

std::optional<Outcome> KvmEngine::HandleExit(uint64_t return_address) {
  const kvm_run& run = vm_->run();
  switch (run.exit_reason) {
    case KVM_EXIT_HLT:
      return OnHalt(return_address);
    case KVM_EXIT_DEBUG:
      FinishStep();
      return std::nullopt;
    case KVM_EXIT_MMIO:
      return OnMmio();
    case KVM_EXIT_IO:
      return DeviceAccess(run.io.port);
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
      return OnMsr();
    case KVM_EXIT_INTR:
      return std::nullopt;
    case KVM_EXIT_SHUTDOWN:
      broken_ = true;
      return End(StopReason::kException, kDoubleFault, 0);
    case KVM_EXIT_INTERNAL_ERROR:
      return OnInternalError();
    case KVM_EXIT_FAIL_ENTRY:
      return Fail(run.exit_reason, run.fail_entry.hardware_entry_failure_reason);
    default:
      return Fail(run.exit_reason, 0);
  }
}

std::optional<Outcome> KvmEngine::OnHalt(uint64_t return_address) {
  const kvm_regs& registers = vm_->registers();
  const uint64_t address = registers.rip - 1;
  if (address == return_address) {
    given_up_ = false;
    return End(StopReason::kReturned, registers.rax, 0);
  }
  const auto trap = trap_at_.find(address);
  if (trap == trap_at_.end()) return End(StopReason::kHalted, 0, 0);
  return OnTrap(trap->second);
}

std::optional<Outcome> KvmEngine::OnTrap(size_t index) {
  kvm_regs& registers = vm_->registers();
  registers.rip = traps_[index].trap.address;
  vm_->RegistersChanged();
  uint64_t result = 0;
  switch (handler_->OnTrap(index, registers.rdi, registers.rsp, &result)) {
    case TrapHandler::Action::kStop:
      return End(StopReason::kTrap, index, 0);
    case TrapHandler::Action::kProceed:
      Proceed(index);
      return std::nullopt;
    case TrapHandler::Action::kReturn:
      break;
  }
  uint64_t caller;
  if (ReadVirtual(memory_.table(), space(), registers.rsp, &caller, sizeof caller) != sizeof caller) {
    return End(StopReason::kException, kPageFault, registers.rsp);
  }
  registers.rax = result;
  registers.rsp += sizeof caller;
  registers.rip = caller;
  return std::nullopt;
}

// Most functions begin with an instruction that does nothing, which is passed over; any other one is executed in place
// of the HLT by a single step.
void KvmEngine::Proceed(size_t index) {
  const TrapSite& site = traps_[index];
  uint8_t bytes[kLongestInstruction] = {site.original};
  const uint64_t got = 1 + ReadVirtual(memory_.table(), space(), site.trap.address + 1, bytes + 1, sizeof bytes - 1);
  if (const size_t length = LengthOfNothing(bytes, got); length != 0) {
    vm_->registers().rip += length;
    return;
  }
  *site.code = site.original;
  stepping_ = index;
  vm_->SetSingleStep(true);
}

void KvmEngine::FinishStep() {
  if (!stepping_) return;
  *traps_[*stepping_].code = kHalt;
  stepping_.reset();
  vm_->SetSingleStep(false);
}

// As in the Unicorn engine the local APIC takes writes (an interrupt to another CPU that does not exist here) and reads
// as idle.
std::optional<Outcome> KvmEngine::OnMmio() {
  kvm_run& run = vm_->run();
  if (run.mmio.phys_addr - kLocalApic >= kPageSize) return DeviceAccess(run.mmio.phys_addr);
  if (!run.mmio.is_write) std::memset(run.mmio.data, 0, sizeof run.mmio.data);
  return std::nullopt;
}

// Other unknown MSRs are an exception to the guest, as on a processor that lacks them.
std::optional<Outcome> KvmEngine::OnMsr() {
  kvm_run& run = vm_->run();
  run.msr.error = IsHarmlessMsr(run.msr.index) ? 0 : 1;
  if (run.exit_reason == KVM_EXIT_X86_RDMSR) run.msr.data = 0;
  return std::nullopt;
}

std::optional<Outcome> KvmEngine::OnInternalError() {
  const kvm_run& run = vm_->run();
  if (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION && EmulateInstruction()) return std::nullopt;
  return Fail(run.exit_reason, run.internal.suberror);
}

bool KvmEngine::EmulateInstruction() {
  kvm_regs& registers = vm_->registers();
  uint8_t code[kLongestInstruction];
  const uint64_t length = ReadVirtual(memory_.table(), space(), registers.rip, code, sizeof code);
  __u64* const general[16] = {&registers.rax, &registers.rcx, &registers.rdx, &registers.rbx,
                              &registers.rsp, &registers.rbp, &registers.rsi, &registers.rdi,
                              &registers.r8,  &registers.r9,  &registers.r10, &registers.r11,
                              &registers.r12, &registers.r13, &registers.r14, &registers.r15};
  OperandRegisters operands;
  for (size_t i = 0; i < 16; ++i) operands.general[i] = *general[i];
  operands.rip = registers.rip;
  operands.rflags = registers.rflags;
  operands.fs_base = context_.fs_base;
  operands.gs_base = context_.gs_base;
  const MemoryAt memory = [this](uint64_t address, size_t size) {
    return VirtualAt(memory_.table(), space(), address, size);
  };
  if (!EmulateCmpxchg16b(code, length, &operands, memory)) return false;
  for (size_t i = 0; i < 16; ++i) *general[i] = operands.general[i];
  registers.rip = operands.rip;
  registers.rflags = operands.rflags;
  vm_->RegistersChanged();
  return true;
}

// KVM leaves the instruction of an access half done, and would finish it at the start of the next run, which is another
// call then.
bool KvmEngine::CompleteAccess() {
  for (int turn = 0; turn < kMostTurns; ++turn) {
    kvm_run& run = vm_->run();
    if (run.exit_reason == KVM_EXIT_MMIO && !run.mmio.is_write) std::memset(run.mmio.data, 0, sizeof run.mmio.data);
    vm_->SetImmediateExit(true);
    const int error = vm_->Run();
    if (error == EINTR) return true;
    if (error != 0) return false;
    if (run.exit_reason != KVM_EXIT_MMIO && run.exit_reason != KVM_EXIT_IO) return false;
  }
  return false;
}

Outcome KvmEngine::DeviceAccess(uint64_t address) {
  const Outcome outcome = End(StopReason::kDevice, 0, address);
  if (!CompleteAccess()) broken_ = true;
  return outcome;
}

Outcome KvmEngine::End(StopReason reason, uint64_t value, uint64_t address) {
  const kvm_regs& registers = vm_->registers();
  return {reason, value, address, registers.rip, registers.rsp};
}

Outcome KvmEngine::Fail(uint64_t error, uint64_t detail) {
  broken_ = true;
  return End(StopReason::kFailed, error, detail);
}

AddressSpace KvmEngine::space() const { return {context_.cr3, (context_.cr4 & kCr4La57) != 0 ? 5 : 4}; }

}  // namespace penumbra
