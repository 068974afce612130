// The host's side of native/inshadow/batch_runner.c.
#ifndef PENUMBRA_NATIVE_SHADOW_BATCH_RUN_H_
#define PENUMBRA_NATIVE_SHADOW_BATCH_RUN_H_

#include <cstdint>

#include "inshadow/batch_runner.h"
#include "shadow/batch.h"
#include "shadow/context.h"
#include "shadow/recipe.h"
#include "shadow/scratch.h"

namespace penumbra {

/// Has batches run by programs in the scratch memory: an engine that is entered once runs all the calls of a batch.
/// Use: Start, then call `entry` with `argument` until Continue says that it is enough, or Abandon when it does not
/// return.
class BatchRun {
 public:
  /// Writes the programs. `scratch` must outlive this.
  explicit BatchRun(const Scratch& scratch);

  /// Puts a batch in place; the caller keeps it until the end. `frame` is the guest-virtual address of the calls'
  /// pt_regs. With `one_call` the program comes back after each call. Throws Error BAD_ARGUMENT when it does not fit.
  void Start(const Batch& batch, const Recipe& recipe, const Context& context, uint64_t frame, bool one_call);

  /// Guest-virtual address of the program, and what it has to be called with.
  uint64_t entry() const { return window_ + Scratch::kProgramOffset; }
  uint64_t argument() const { return window_ + Scratch::kStateOffset; }

  /// The program came back: takes what the calls gave. False when it is done, or `result` has a failure now.
  bool Continue(BatchResult* result);

  /// Takes what there is of a batch whose program did not come back.
  void Abandon(BatchResult* result);

  /// Calls begun since this exists; changes while the program runs.
  const uint64_t* calls() const { return &state_->calls; }

  /// The call in progress would have slept and was given a signal instead.
  bool slept() const { return state_->slept != 0; }
  void set_slept() { state_->slept = 1; }

 private:
  void PlaceRecords(runner_state* state);
  void PlacePayload(runner_state* state);
  void TakeOuts(BatchResult* result);
  void TakeValues(BatchResult* result) const;
  const uint8_t* Find(const runner_out& out) const;

  const Scratch& scratch_;
  runner_state* state_;  ///< in memory that the guest can write
  const Batch* batch_ = nullptr;
  uint64_t room_ = 0;  ///< bytes that the batch may still give back
  uint64_t window_ = 0;
  uint64_t values_ = 0;   ///< offset in the window
  uint64_t blocked_ = 0;  ///< offset in the window
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_BATCH_RUN_H_
