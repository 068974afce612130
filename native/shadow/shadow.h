// A guest's memory forked copy-on-write, an engine and a context: calls in it change nothing in the guest.
#ifndef PENUMBRA_NATIVE_SHADOW_SHADOW_H_
#define PENUMBRA_NATIVE_SHADOW_SHADOW_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/choose.h"
#include "engine/engine.h"
#include "hypervisor/registers.h"
#include "memory/guest_ram.h"
#include "memory/private_ram.h"
#include "shadow/batch.h"
#include "shadow/batch_run.h"
#include "shadow/call_timer.h"
#include "shadow/code_version.h"
#include "shadow/code_watch.h"
#include "shadow/context.h"
#include "shadow/recipe.h"
#include "shadow/scratch.h"

namespace penumbra {

struct ShadowOptions {
  uint64_t instruction_limit = 0;          ///< per call; 0 is none, anything else slows the engine down
  uint64_t time_limit_ns = 1'000'000'000;  ///< per call; an eighth of it where the guest was stopped in kernel code
  size_t keep_pages = 1024;                ///< private pages kept to be refreshed by copy
};

/// Not thread-safe: one thread drives it. The life of a shadow is Refresh, Load, Run ..., Collect, over and over;
/// between Refresh and the last Run the guest must stand still.
class Shadow final : public TrapHandler {
 public:
  /// `ram` must outlive the shadow; `scratch_gpa` lies above all RAM. Throws Error BAD_ARGUMENT, and what MakeEngine
  /// throws.
  Shadow(const GuestRam& ram, Recipe recipe, uint64_t scratch_gpa, const EngineChoice& engine);
  ~Shadow() override;

  void set_options(const ShadowOptions& options) { options_ = options; }
  /// The task whose credentials, root and namespaces calls have.
  void Borrow(uint64_t task, uint32_t pid);

  /// Brings private pages and translated code up to the guest's present state. Needs no registers, so it can run
  /// while they are on their way.
  void Refresh();

  /// Builds the context. Throws Error LOCKED (stop again), NO_TASK, CORRUPT.
  const Context& Load(const std::vector<VcpuState>& vcpus);

  /// Runs the calls. After a failure the shadow must be refreshed and loaded again.
  BatchResult Run(const Batch& batch);

  /// After a failure: makes the memory as it is now callable again, whatever the failed call left half done in it.
  /// For those who would lose more by a new shadow. Throws Error INTERNAL when there was no failure.
  void Recover();

  /// Memory for the buffers of calls whose arguments are all values: here and to the guest. Valid after Load, until
  /// calls with buffers of their own are run.
  uint8_t* window() const { return scratch_.At(Scratch::kPayloadOffset); }
  uint64_t window_address() const;
  static constexpr uint64_t kWindowSize = Scratch::kPayloadSize - kPageSize;

  /// Copies out of the shadow's view of the borrowed task's address space; returns the bytes copied before the
  /// first one that is not mapped.
  uint64_t Read(uint64_t address, void* out, uint64_t length) const;
  /// The same through another page table root.
  uint64_t Read(uint64_t root, uint64_t address, void* out, uint64_t length) const;

  /// Writes through a page table root into the shadow, never into the guest; the next Refresh undoes it. Returns the
  /// bytes written before the first one that is not mapped.
  uint64_t Write(uint64_t root, uint64_t address, const void* bytes, uint64_t length);

  /// The page table root of the borrowed task.
  uint64_t root() const;

  /// Copies into it; returns the bytes copied before the first one that is not mapped.
  uint64_t Write(uint64_t address, const void* bytes, uint64_t length) const;

  /// From now on the guest may run without changing what calls find. Returns the bytes copied.
  uint64_t CopyMemory() { return memory_.CopyAll(); }

  /// Remembers what was translated; call while the guest still stands. Does not fail: whoever lets the guest go comes
  /// by.
  void NoteCode();

  /// Finds the pages that became private; slow, meant for when the guest runs again.
  void Collect();

  /// Gives all private pages back.
  void Drop() { memory_.DropAll(); }

  size_t private_page_count() const { return memory_.page_count(); }
  const char* engine_name() const { return engine_->name(); }
  uint64_t exits() const { return engine_->exits(); }
  uint64_t calls() const { return *batch_run_.calls(); }

  Action OnTrap(size_t index, uint64_t argument, uint64_t stack, uint64_t* result) override;

 private:
  PrivateRam::Look WhereToLook();
  bool EndSleep(uint64_t state);
  bool UnlockPage(uint64_t stack);
  void TakeBackSignal();
  void KeepState();
  void ChangeTask(uint64_t offset, uint64_t clear, uint64_t set, uint32_t width);

  Outcome EnterProgram(uint64_t instruction_limit);
  void PrepareStack();
  uint64_t StackPointer() const;
  CallFailure Explain(const Outcome& outcome) const;
  std::vector<uint64_t> FindCallers(uint64_t stack, size_t most) const;
  bool OnStack(uint64_t address) const;
  bool IsHarmlessReader(uint64_t stack) const;

  const GuestRam& ram_;
  Recipe recipe_;
  ShadowOptions options_;
  PrivateRam memory_;
  Scratch scratch_;
  BatchRun batch_run_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<CallTimer> timer_;
  CodeVersion code_version_;
  std::optional<uint64_t> text_version_;  ///< when the private text was last brought up to date
  CodeWatch code_watch_;
  std::vector<uint64_t> written_;  ///< pages written to by Write since the last Refresh
  std::optional<Context> context_;
  std::optional<Context> failed_;  ///< the context of a call that failed
  uint64_t collections_ = 0;       ///< since private pages were given back
  uint64_t forget_after_;          ///< so many of them
  size_t forgotten_ = 0;           ///< pages given back the last time
  bool forgets_ = false;           ///< they were given back by the last collection
  uint64_t state_before_ = 0;      ///< the borrowed task's state, which calls are not to change
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_SHADOW_H_
