// The engine for hosts with hardware virtualisation: a KVM virtual machine of penumbra's own over the private memory.
#ifndef PENUMBRA_NATIVE_ENGINE_KVM_ENGINE_H_
#define PENUMBRA_NATIVE_ENGINE_KVM_ENGINE_H_

#include <pthread.h>

#include <mutex>
#include <optional>
#include <unordered_map>

#include "engine/engine.h"
#include "engine/kvm_device.h"
#include "engine/kvm_vm.h"
#include "memory/page_walk.h"
#include "memory/private_ram.h"

namespace penumbra {

/// Traps are HLT instructions in the private copy, which Load() sees to. (Leaving by OUT costs the same, but leaves
/// an instruction half done, which would have to be completed before the registers can be set for another call.)
/// Exceptions are delivered through the guest's own IDT, so that its exception tables work and its page faults are
/// served; what it cannot handle ends at the traps of its panic functions.
class KvmEngine final : public Engine {
 public:
  /// Makes all of `memory`, which must outlive the engine, the machine's memory. Throws Error UNSUPPORTED, PERMISSION
  /// (see KvmDevice), ENGINE.
  KvmEngine(const std::string& device, PrivateRam& memory);
  ~KvmEngine() override;

  const char* name() const override { return "kvm"; }
  void SetTraps(const std::vector<Trap>& traps, TrapHandler* handler) override;
  void Load(const CpuContext& context) override;
  void CodeChanged() override {}
  std::vector<CodePage> TakeNewCodePages() override { return {}; }
  bool CountsInstructions() const override { return false; }
  Outcome Call(const CallRegisters& registers, uint64_t return_address, uint64_t instruction_limit) override;
  uint64_t exits() const override { return vm_->statistics().exits(); }
  void Interrupt() override;

 private:
  class Running;

  struct TrapSite {
    Trap trap;
    uint8_t* code = nullptr;  ///< in the private copy; nullptr where it is not mapped
    uint8_t original = 0;     ///< first byte of the guest's own instruction
  };

  void CreateMachine();
  void PlantTraps();
  bool PlantTrap(TrapSite* site);

  /// These look at why the machine stopped; nothing means: run on.
  std::optional<Outcome> HandleExit(uint64_t return_address);
  std::optional<Outcome> OnHalt(uint64_t return_address);
  std::optional<Outcome> OnTrap(size_t index);
  std::optional<Outcome> OnMmio();
  std::optional<Outcome> OnMsr();
  std::optional<Outcome> OnInternalError();

  void Proceed(size_t index);
  void FinishStep();
  bool EmulateInstruction();
  bool CompleteAccess();
  Outcome DeviceAccess(uint64_t address);
  Outcome End(StopReason reason, uint64_t value, uint64_t address);
  Outcome Fail(uint64_t error, uint64_t detail);
  AddressSpace space() const;

  PrivateRam& memory_;
  KvmDevice device_;
  std::optional<KvmVm> vm_;
  kvm_sregs pristine_{};
  TrapHandler* handler_ = nullptr;
  std::vector<TrapSite> traps_;
  std::unordered_map<uint64_t, size_t> trap_at_;
  std::optional<uint64_t> planted_;  ///< all traps are there for as long as the memory has lost no more overlays
  std::optional<size_t> stepping_;   ///< the trap whose original instruction is being executed
  CpuContext context_{};
  bool broken_ = false;    ///< the machine cannot be used any more
  bool given_up_ = false;  ///< the last call did not return: an exception of it may wait to be delivered

  std::mutex mutex_;                  ///< guards the rest
  std::optional<pthread_t> running_;  ///< the thread that is in Call()
  bool interrupted_ = false;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_KVM_ENGINE_H_
