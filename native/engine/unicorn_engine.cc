#include "engine/unicorn_engine.h"

#include <unicorn/unicorn.h>

#include <array>
#include <string>

#include "error.h"
#include "memory/page_walk.h"

namespace penumbra {

namespace {

constexpr uint32_t kMsrEfer = 0xc0000080;
constexpr uint32_t kMsrKernelGsBase = 0xc0000102;
constexpr uint64_t kEferLongMode = 0x500;  // LME and LMA
constexpr uint64_t kCr4La57 = 1 << 12;
// Control bits that this CPU model implements; others (PCID, CET, user interrupts) change nothing at privilege level 0.
constexpr uint64_t kCr4Mask = 0x003717ff & ~uint64_t{1 << 17};
constexpr uint64_t kLocalApic = 0xfee00000;
constexpr uint64_t kInterruptsEnabled = 0x202;
// For translated code; a listing of processes takes 2 MiB of it. Unicorn reserves 1 GiB, and the first flush makes all
// of it resident, which takes seconds while the guest stands still.
constexpr uint32_t kCodeBufferSize = 8 << 20;

void Check(uc_err error, const char* what) {
  if (error != UC_ERR_OK) throw Error("ENGINE", std::string(what) + ": " + uc_strerror(error));
}

// The local APIC takes writes (an interrupt to another CPU that does not exist here) and reads as idle.
uint64_t ReadApic(uc_engine*, uint64_t, unsigned, void*) { return 0; }
void WriteApic(uc_engine*, uint64_t, unsigned, uint64_t, void*) {}

}  // namespace

struct UnicornEngine::Hooks {
  static UnicornEngine* Self(void* data) { return static_cast<UnicornEngine*>(data); }

  static void OnTrap(uc_engine* uc, uint64_t, uint32_t, void* data) {
    const HookedTrap* trap = static_cast<HookedTrap*>(data);
    UnicornEngine* self = trap->engine;
    uint64_t result = 0;
    const uint64_t argument = self->ReadRegister(UC_X86_REG_RDI);
    const uint64_t stack = self->ReadRegister(UC_X86_REG_RSP);
    switch (self->handler_->OnTrap(trap->index, argument, stack, &result)) {
      case TrapHandler::Action::kProceed:
        return;
      case TrapHandler::Action::kStop:
        self->End(StopReason::kTrap, trap->index, 0);
        return;
      case TrapHandler::Action::kReturn: {
        const AddressSpace space{self->context_.cr3, (self->context_.cr4 & kCr4La57) != 0 ? 5 : 4};
        uint64_t caller;
        if (ReadVirtual(self->memory_.table(), space, stack, &caller, sizeof caller) != sizeof caller) {
          self->End(StopReason::kException, 14, stack);
          return;
        }
        const uint64_t popped = stack + 8;
        // Unchecked: an exception must not pass through Unicorn's C frames, and these three registers always exist.
        uc_reg_write(uc, UC_X86_REG_RAX, &result);
        uc_reg_write(uc, UC_X86_REG_RSP, &popped);
        uc_reg_write(uc, UC_X86_REG_RIP, &caller);
        return;
      }
    }
  }

  static void OnException(uc_engine*, uint32_t vector, void* data) {
    UnicornEngine* self = Self(data);
    self->End(StopReason::kException, vector, vector == 14 ? self->ReadRegister(UC_X86_REG_CR2) : 0);
  }

  static bool OnUnmapped(uc_engine*, uc_mem_type, uint64_t address, int, int64_t, void* data) {
    Self(data)->End(StopReason::kDevice, 0, address);
    return false;
  }

  static bool OnInvalid(uc_engine*, void* data) {
    Self(data)->End(StopReason::kException, 6, 0);
    return false;
  }

  static uint32_t OnIn(uc_engine*, uint32_t port, int, void* data) {
    Self(data)->End(StopReason::kDevice, 0, port);
    return 0;
  }

  static void OnOut(uc_engine*, uint32_t port, int, uint32_t, void* data) {
    Self(data)->End(StopReason::kDevice, 0, port);
  }

  static void OnTranslated(uc_engine*, uc_tb* block, uc_tb*, void* data) {
    UnicornEngine* self = Self(data);
    const AddressSpace space{self->context_.cr3, (self->context_.cr4 & kCr4La57) != 0 ? 5 : 4};
    for (uint64_t page = block->pc & ~kPageMask; page < block->pc + block->size; page += kPageSize) {
      const Translation translation = Translate(self->memory_.table(), space, page);
      if (translation.mapped() && self->code_pages_.insert(translation.gpa).second) {
        self->new_code_pages_.push_back({page, translation.gpa});
      }
    }
  }
};

UnicornEngine::UnicornEngine(const PrivateRam& memory) : memory_(memory) {
  Check(uc_open(UC_ARCH_X86, UC_MODE_64, &uc_), "cannot open Unicorn");
  try {
    // A model with SMAP: kernels use STAC and CLAC when the guest's CPU has it.
    Check(uc_ctl_set_cpu_model(uc_, UC_CPU_X86_ICELAKE_SERVER), "cannot choose a CPU model");
    Check(uc_ctl_set_tcg_buffer_size(uc_, kCodeBufferSize), "cannot choose the size of translated code");
    // Emulation ends by a hook or by HLT only. An end address would be looked up after each call, and where nothing is
    // mapped the CPU would remember that page fault and take the next exception for a double fault.
    Check(uc_ctl_exits_enable(uc_), "cannot do without an end address");
    for (const MappedRegion& region : memory.table().regions()) {
      Check(uc_mem_map_ptr(uc_, region.gpa, region.size, UC_PROT_ALL, region.host), "cannot map RAM");
    }
    Check(uc_mmio_map(uc_, kLocalApic, kPageSize, ReadApic, nullptr, WriteApic, nullptr), "cannot map the APIC");
    uc_hook hook;
    const auto add = [&](int type, void* function) {
      Check(uc_hook_add(uc_, &hook, type, function, this, 1, 0), "cannot add a hook");
    };
    add(UC_HOOK_INTR, reinterpret_cast<void*>(&Hooks::OnException));
    add(UC_HOOK_MEM_UNMAPPED | UC_HOOK_MEM_PROT, reinterpret_cast<void*>(&Hooks::OnUnmapped));
    add(UC_HOOK_INSN_INVALID, reinterpret_cast<void*>(&Hooks::OnInvalid));
    add(UC_HOOK_EDGE_GENERATED, reinterpret_cast<void*>(&Hooks::OnTranslated));
    Check(uc_hook_add(uc_, &hook, UC_HOOK_INSN, reinterpret_cast<void*>(&Hooks::OnIn), this, 1, 0, UC_X86_INS_IN),
          "cannot hook IN");
    Check(uc_hook_add(uc_, &hook, UC_HOOK_INSN, reinterpret_cast<void*>(&Hooks::OnOut), this, 1, 0, UC_X86_INS_OUT),
          "cannot hook OUT");
    Check(uc_context_alloc(uc_, &pristine_), "cannot save the CPU");
    Check(uc_context_save(uc_, pristine_), "cannot save the CPU");
  } catch (...) {
    if (pristine_ != nullptr) uc_context_free(pristine_);
    uc_close(uc_);
    throw;
  }
}

UnicornEngine::~UnicornEngine() {
  uc_context_free(pristine_);
  uc_close(uc_);
}

void UnicornEngine::SetTraps(const std::vector<Trap>& traps, TrapHandler* handler) {
  handler_ = handler;
  for (size_t index = 0; index < traps.size(); ++index) {
    traps_.push_back(std::make_unique<HookedTrap>(HookedTrap{this, index}));
    uc_hook hook;
    Check(uc_hook_add(uc_, &hook, UC_HOOK_CODE, reinterpret_cast<void*>(&Hooks::OnTrap), traps_.back().get(),
                      traps[index].address, traps[index].address),
          "cannot add a trap");
  }
}

void UnicornEngine::Load(const CpuContext& context) {
  context_ = context;
  if (outcome_.reason != StopReason::kReturned) Check(uc_context_restore(uc_, pristine_), "cannot reset the CPU");
  WriteMsr(kMsrEfer, context.efer | kEferLongMode);
  WriteRegister(UC_X86_REG_CR4, context.cr4 & kCr4Mask);
  WriteRegister(UC_X86_REG_CR0, context.cr0);
  WriteRegister(UC_X86_REG_FS_BASE, context.fs_base);
  WriteRegister(UC_X86_REG_GS_BASE, context.gs_base);
  WriteMsr(kMsrKernelGsBase, context.kernel_gs_base);
  // Last: writing CR3 drops all cached translations.
  WriteRegister(UC_X86_REG_CR3, context.cr3);
  outcome_ = {};
}

void UnicornEngine::CodeChanged() {
  Check(uc_ctl_flush_tb(uc_), "cannot drop translated code");
  code_pages_.clear();
  new_code_pages_.clear();
}

std::vector<CodePage> UnicornEngine::TakeNewCodePages() { return std::exchange(new_code_pages_, {}); }

Outcome UnicornEngine::Call(const CallRegisters& call, uint64_t return_address, uint64_t instruction_limit) {
  static constexpr std::array<int, 9> kIds = {UC_X86_REG_RSP, UC_X86_REG_RDI, UC_X86_REG_RSI,
                                              UC_X86_REG_RDX, UC_X86_REG_RCX, UC_X86_REG_R8,
                                              UC_X86_REG_R9,  UC_X86_REG_RAX, UC_X86_REG_RFLAGS};
  uint64_t values[9] = {call.stack,        call.arguments[0], call.arguments[1], call.arguments[2],
                        call.arguments[3], call.arguments[4], call.arguments[5], 0,
                        kInterruptsEnabled};
  void* pointers[9];
  for (size_t i = 0; i < kIds.size(); ++i) pointers[i] = &values[i];
  ended_ = false;
  interrupted_ = false;
  Check(uc_reg_write_batch(uc_, const_cast<int*>(kIds.data()), pointers, kIds.size()), "cannot set registers");
  const uc_err error = uc_emu_start(uc_, call.function, 0, 0, instruction_limit);
  const uint64_t rip = ReadRegister(UC_X86_REG_RIP);
  if (!ended_) {
    if (error != UC_ERR_OK) {
      outcome_ = {StopReason::kFailed, static_cast<uint64_t>(error), 0, rip, ReadRegister(UC_X86_REG_RSP)};
    } else if (rip == return_address + 1) {
      outcome_ = {StopReason::kReturned, ReadRegister(UC_X86_REG_RAX), 0, rip, 0};
    } else {
      const bool halted = !interrupted_ && instruction_limit == 0;
      outcome_ = {halted ? StopReason::kHalted : StopReason::kWatchdog, 0, 0, rip, ReadRegister(UC_X86_REG_RSP)};
    }
  }
  return outcome_;
}

void UnicornEngine::Interrupt() {
  interrupted_ = true;
  uc_emu_stop(uc_);
}

void UnicornEngine::End(StopReason reason, uint64_t value, uint64_t address) {
  if (!ended_) outcome_ = {reason, value, address, ReadRegister(UC_X86_REG_RIP), ReadRegister(UC_X86_REG_RSP)};
  ended_ = true;
  uc_emu_stop(uc_);
}

void UnicornEngine::WriteRegister(int id, uint64_t value) {
  Check(uc_reg_write(uc_, id, &value), "cannot write a register");
}

uint64_t UnicornEngine::ReadRegister(int id) const {
  uint64_t value = 0;
  uc_reg_read(uc_, id, &value);
  return value;
}

void UnicornEngine::WriteMsr(uint32_t index, uint64_t value) {
  uc_x86_msr msr{index, value};
  Check(uc_reg_write(uc_, UC_X86_REG_MSR, &msr), "cannot write an MSR");
}

}  // namespace penumbra
