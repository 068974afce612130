// The engine that needs no hardware: Unicorn 2.1 (QEMU's TCG as a library).
#ifndef PENUMBRA_NATIVE_ENGINE_UNICORN_ENGINE_H_
#define PENUMBRA_NATIVE_ENGINE_UNICORN_ENGINE_H_

#include <atomic>
#include <memory>
#include <unordered_set>

#include "engine/engine.h"

struct uc_struct;
struct uc_context;

namespace penumbra {

class UnicornEngine final : public Engine {
 public:
  /// Maps all of `memory` into the engine; `memory` must outlive it. Throws Error ENGINE.
  explicit UnicornEngine(const PrivateRam& memory);
  ~UnicornEngine() override;

  const char* name() const override { return "unicorn"; }
  void SetTraps(const std::vector<Trap>& traps, TrapHandler* handler) override;
  void Load(const CpuContext& context) override;
  void CodeChanged() override;
  std::vector<CodePage> TakeNewCodePages() override;
  bool CountsInstructions() const override { return true; }
  Outcome Call(const CallRegisters& registers, uint64_t return_address, uint64_t instruction_limit) override;
  void Interrupt() override;

 private:
  struct Hooks;  // the C callbacks that Unicorn calls
  struct HookedTrap {
    UnicornEngine* engine;
    size_t index;
  };

  void WriteRegister(int id, uint64_t value);
  uint64_t ReadRegister(int id) const;
  void WriteMsr(uint32_t index, uint64_t value);
  void End(StopReason reason, uint64_t value, uint64_t address);

  const PrivateRam& memory_;
  uc_struct* uc_ = nullptr;
  uc_context* pristine_ = nullptr;
  TrapHandler* handler_ = nullptr;
  std::vector<std::unique_ptr<HookedTrap>> traps_;
  std::unordered_set<uint64_t> code_pages_;
  std::vector<CodePage> new_code_pages_;
  CpuContext context_{};
  Outcome outcome_{};
  bool ended_ = false;
  std::atomic<bool> interrupted_{false};
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_UNICORN_ENGINE_H_
