#include "shadow/batch_run.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

#include "batch_runner_code.h"
#include "error.h"
#include "inshadow/process_walk.h"
#include "process_walk_code.h"

namespace penumbra {

namespace {

// struct pt_regs, arch/x86/include/asm/ptrace.h; the order is that of the syscall ABI and never changed.
enum PtRegs { kAx = 10, kCx = 11, kIp = 16, kCs = 17, kFlags = 18, kSp = 19, kSs = 20 };
constexpr uint64_t kEnosys = 38;
constexpr uint64_t kUserFlags = 0x202;
constexpr uint64_t kCr4Smap = 1 << 21;
// Strings are read in words; the last bytes of payload and data stay unused so that no read leaves them.
constexpr uint64_t kGuard = 64;
constexpr uint64_t kDataSize = Scratch::kDataSize - kGuard;

// One page each.
constexpr uint64_t kProcessWalkOffset = Scratch::kProgramOffset + kPageSize;
static_assert(sizeof kBatchRunnerCode <= kPageSize && sizeof kProcessWalkCode <= kPageSize);
static_assert(kProcessWalkOffset + kPageSize <= Scratch::kProgramOffset + Scratch::kProgramSize);
// What src/inspect/processWalk.ts believes of it.
static_assert(sizeof(process_walk) == 192 && offsetof(process_walk, next) == 188 && sizeof(process_record) == 104 &&
              PROCESS_WALK_ROOM == (2 << 20) + 1024);
static_assert(sizeof(runner_state) <= Scratch::kStateSize);
// What batch_runner.c believes of the encoded batch.
static_assert(sizeof(ArgumentRecord) == 32 && offsetof(ArgumentRecord, value) == 16 &&
              offsetof(ArgumentRecord, fixup_count) == 28);
static_assert(sizeof(StepRecord) == 24 && offsetof(StepRecord, limit) == 20);
static_assert(Batch::kMaxArguments == RUNNER_MOST_ARGUMENTS);

uint64_t Align(uint64_t size) { return (size + RUNNER_BUFFER_ALIGNMENT - 1) & ~uint64_t{RUNNER_BUFFER_ALIGNMENT - 1}; }

void RequireRoom(const Batch& batch) {
  const uint64_t steps = batch.step_count();
  if (Align(batch.payload_offset()) + Align(steps * 8) + steps > Scratch::kBatchSize ||
      batch.size() - batch.payload_offset() > Scratch::kPayloadSize - kGuard - RUNNER_BUFFER_ALIGNMENT) {
    throw Error("BAD_ARGUMENT", "the calls do not fit into the shadow's scratch memory");
  }
  for (uint64_t i = 0; i < steps; ++i) {
    const StepRecord& step = batch.steps()[i];
    uint64_t size = 0;
    for (uint32_t k = 0; k < step.argument_count; ++k) {
      const ArgumentRecord& argument = batch.argument(step.first_argument + k);
      if (argument.kind == ArgumentRecord::kOut) size += Align(argument.size);
    }
    if (size > kDataSize) {
      throw Error("BAD_ARGUMENT", "the arguments of a call do not fit into the shadow's scratch memory");
    }
  }
}

/// Bytes that a batch can give back. All calls of a repeated step but the last return fewer than its limit together,
/// and no fewer than one each.
uint64_t MostGivenBack(const Batch& batch) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < batch.step_count(); ++i) {
    const StepRecord& step = batch.steps()[i];
    const uint64_t before = (step.flags & StepRecord::kRepeat) != 0 ? step.limit : 0;
    for (uint32_t k = 0; k < step.argument_count; ++k) {
      const ArgumentRecord& argument = batch.argument(step.first_argument + k);
      if (argument.kind != ArgumentRecord::kOut && argument.kind != ArgumentRecord::kInOut) continue;
      const bool counts = (argument.flags & ArgumentRecord::kLengthIsResult) != 0;
      bytes += argument.size + (counts ? before : before * argument.size);
    }
  }
  return bytes;
}

void RequireHandlers(const Batch& batch, const Recipe& recipe) {
  for (uint32_t i = 0; i < batch.step_count(); ++i) {
    const StepRecord& step = batch.steps()[i];
    if ((step.flags & StepRecord::kProgram) != 0 &&
        (step.target >= RUNNER_PROGRAMS || step.argument_count >= Batch::kMaxArguments)) {
      throw Error("BAD_ARGUMENT", "no program " + std::to_string(step.target) + ", or too many arguments for it");
    }
    const bool direct = (step.flags & (StepRecord::kDirect | StepRecord::kFunction)) == StepRecord::kDirect;
    if (direct && step.target >= recipe.syscall_count) {
      throw Error("BAD_ARGUMENT", "no handler for syscall " + std::to_string(step.target));
    }
  }
}

}  // namespace

BatchRun::BatchRun(const Scratch& scratch)
    : scratch_(scratch), state_(reinterpret_cast<runner_state*>(scratch.At(Scratch::kStateOffset))) {
  std::memcpy(scratch.At(Scratch::kProgramOffset), kBatchRunnerCode, sizeof kBatchRunnerCode);
  std::memcpy(scratch.At(kProcessWalkOffset), kProcessWalkCode, sizeof kProcessWalkCode);
}

void BatchRun::Start(const Batch& batch, const Recipe& recipe, const Context& context, uint64_t frame, bool one_call) {
  RequireRoom(batch);
  RequireHandlers(batch, recipe);
  batch_ = &batch;
  room_ = MostGivenBack(batch);
  window_ = context.scratch_address;
  runner_state state{};
  PlaceRecords(&state);
  PlacePayload(&state);
  state.data = window_ + Scratch::kDataOffset;
  state.data_size = kDataSize;
  state.outs = window_ + Scratch::kOutsOffset;
  state.outs_limit = Scratch::kOutsSize / sizeof(runner_out);
  state.frame = frame;
  state.frame_template[kAx] = -kEnosys;
  state.frame_template[kIp] = state.frame_template[kCx] = state.data;
  state.frame_template[kFlags] = kUserFlags;
  state.frame_template[kSp] = window_ + Scratch::kSize;
  state.frame_template[kCs] = recipe.user_code_selector;
  state.frame_template[kSs] = recipe.user_data_selector;
  state.dispatch = recipe.syscall_dispatch;
  state.registers_first = recipe.registers_first ? 1 : 0;
  state.syscall_table = recipe.syscall_table;
  state.programs[0] = window_ + kProcessWalkOffset;
  state.user_access = (context.cpu.cr4 & kCr4Smap) != 0 ? 1 : 0;
  state.one_call = one_call ? 1 : 0;
  state.step_count = batch.step_count();
  state.data_dirty = std::min(state_->data_dirty, kDataSize);
  state.calls = state_->calls;
  *state_ = state;
}

void BatchRun::PlaceRecords(runner_state* state) {
  const uint64_t size = batch_->payload_offset();
  values_ = Scratch::kBatchOffset + Align(size);
  blocked_ = values_ + Align(uint64_t{batch_->step_count()} * 8);
  std::memcpy(scratch_.At(Scratch::kBatchOffset), batch_->bytes(), size);
  std::memset(scratch_.At(blocked_), 0, batch_->step_count());
  state->steps = window_ + Scratch::kBatchOffset + batch_->steps_offset();
  state->arguments = window_ + Scratch::kBatchOffset + batch_->arguments_offset();
  state->values = window_ + values_;
  state->blocked = window_ + blocked_;
}

// The payload keeps its alignment; the pointers in it are set. Where a batch has none, nothing is written: whoever runs
// it may have put the bytes of its own there (Shadow::window).
void BatchRun::PlacePayload(runner_state* state) {
  const uint64_t begin = batch_->payload_offset() & ~uint64_t{RUNNER_BUFFER_ALIGNMENT - 1};
  uint8_t* payload = scratch_.At(Scratch::kPayloadOffset);
  const uint64_t from = batch_->payload_offset();
  std::memcpy(payload + (from - begin), batch_->bytes() + from, batch_->size() - from);
  state->payload = window_ + Scratch::kPayloadOffset - begin;
  for (uint32_t i = 0; i < batch_->argument_count(); ++i) {
    const ArgumentRecord& argument = batch_->argument(i);
    for (uint32_t k = 0; k < argument.fixup_count; ++k) {
      const FixupRecord& fixup = batch_->fixup(argument.fixups + k);
      const uint64_t target = state->payload + argument.payload + fixup.target;
      std::memcpy(payload + (argument.payload - begin) + fixup.offset, &target, sizeof target);
    }
  }
}

bool BatchRun::Continue(BatchResult* result) {
  const uint32_t status = state_->status;
  TakeOuts(result);
  if (!result->failure && status == RUNNER_TOO_LONG) {
    result->failure = CallFailure{"CORRUPT", "the guest returned more bytes than its buffer holds", 0, {}};
  }
  const bool more = !result->failure && (status == RUNNER_FULL || status == RUNNER_CALLED);
  if (!more) TakeValues(result);
  return more;
}

void BatchRun::Abandon(BatchResult* result) {
  TakeOuts(result);
  TakeValues(result);
}

void BatchRun::TakeOuts(BatchResult* result) {
  const uint64_t count = std::min(state_->outs_count, Scratch::kOutsSize / sizeof(runner_out));
  const uint8_t* records = scratch_.At(Scratch::kOutsOffset);
  for (uint64_t i = 0; i < count && !result->failure; ++i) {
    runner_out out;
    std::memcpy(&out, records + i * sizeof out, sizeof out);
    const uint8_t* bytes = Find(out);
    if (bytes == nullptr || out.length > room_) {
      result->failure = CallFailure{"CORRUPT", "the guest wrote over the results of its calls", 0, {}};
      break;
    }
    room_ -= out.length;
    result->outs.push_back({out.step, out.argument, static_cast<uint32_t>(result->bytes.size()), out.length});
    result->bytes.insert(result->bytes.end(), bytes, bytes + out.length);
  }
  state_->outs_count = 0;
  state_->data_used = 0;
}

// Nothing when the record does not fit the batch.
const uint8_t* BatchRun::Find(const runner_out& out) const {
  if (out.step >= batch_->step_count()) return nullptr;
  const StepRecord& step = batch_->steps()[out.step];
  if (out.argument - step.first_argument >= step.argument_count) return nullptr;
  const ArgumentRecord& argument = batch_->argument(out.argument);
  if (out.length > argument.size) return nullptr;
  if (argument.kind == ArgumentRecord::kInOut) {
    const uint64_t begin = batch_->payload_offset() & ~uint64_t{RUNNER_BUFFER_ALIGNMENT - 1};
    return scratch_.At(Scratch::kPayloadOffset) + (argument.payload - begin);
  }
  if (argument.kind != ArgumentRecord::kOut || out.offset > kDataSize - out.length) return nullptr;
  return scratch_.At(Scratch::kDataOffset) + out.offset;
}

void BatchRun::TakeValues(BatchResult* result) const {
  const uint32_t completed = std::min(state_->step, batch_->step_count());
  const uint8_t* blocked = scratch_.At(blocked_);
  result->values.resize(completed);
  if (completed > 0) std::memcpy(result->values.data(), scratch_.At(values_), completed * sizeof(int64_t));
  for (uint32_t step = 0; step < completed; ++step) {
    if (blocked[step] != 0) result->blocked.push_back(step);
  }
}

}  // namespace penumbra
