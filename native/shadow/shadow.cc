#include "shadow/shadow.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "error.h"

namespace penumbra {

namespace {

constexpr uint64_t kFrameBytes = RUNNER_PT_REGS_WORDS * 8;  // struct pt_regs
// Shadows, until private pages are given back.
constexpr uint64_t kForgetFirst = 16;
constexpr uint64_t kForgetLatest = 1024;
constexpr size_t kMostReturn = 4;  // all but one in so many pages
constexpr size_t kMostCallers = 24;
constexpr uint64_t kSpinShare = 8;
constexpr int kLongestBatch = 30;  // times that one call may take
constexpr size_t kMostLockCallers = 4;
constexpr uint8_t kHlt = 0xf4;

std::string Hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

Shadow::Shadow(const GuestRam& ram, Recipe recipe, uint64_t scratch_gpa, const EngineChoice& engine)
    : ram_(ram),
      recipe_(std::move(recipe)),
      memory_(ram, scratch_gpa, Scratch::kSize, engine.name == "kvm" ? Touch::kAnyone : Touch::kUserCode),
      scratch_(memory_),
      batch_run_(scratch_),
      engine_(MakeEngine(engine, memory_)),
      timer_(std::make_unique<CallTimer>(engine_.get(), batch_run_.calls())),
      code_version_(ram_, recipe_),
      code_watch_(ram_, recipe_, &code_version_),
      forget_after_(kForgetFirst) {
  std::vector<Trap> traps;
  for (const TrapRule& rule : recipe_.traps) {
    const bool skipped = rule.kind == TrapRule::Kind::kSkip;
    traps.push_back({rule.address, skipped ? std::optional(rule.value) : std::nullopt});
  }
  engine_->SetTraps(traps, this);
  if (recipe_.code.size() > Scratch::kReturnOffset - Scratch::kCodeOffset) {
    throw Error("BAD_ARGUMENT", "scratch code is too long");
  }
  std::memset(scratch_.code(), kHlt, kPageSize);
  std::memcpy(scratch_.code(), recipe_.code.data(), recipe_.code.size());
}

Shadow::~Shadow() = default;

void Shadow::Borrow(uint64_t task, uint32_t pid) {
  recipe_.borrowed_task = task;
  recipe_.borrowed_pid = pid;
}

void Shadow::Refresh() {
  memory_.Refresh(WhereToLook());
  const bool rewritten =
      std::any_of(written_.begin(), written_.end(), [this](uint64_t gpa) { return code_watch_.Covers(gpa); });
  written_.clear();
  if (code_watch_.Changed() || rewritten) engine_->CodeChanged();
}

// Text is patched by the guest's kernel, here or there, which counts it; or by who does not, of which there are two:
// Write, and a rootkit. The latter is noticed some stops later.
PrivateRam::Look Shadow::WhereToLook() {
  const std::optional<uint64_t> before = std::exchange(text_version_, code_version_.InGuest());
  const bool counted = text_version_ && text_version_ == before && text_version_ == code_version_.In(memory_.table());
  return counted && written_.empty() ? PrivateRam::Look::kOneInTurn : PrivateRam::Look::kAll;
}

void Shadow::NoteCode() {
  try {
    code_watch_.Add(engine_->TakeNewCodePages());
  } catch (const Error&) {
    // Without the page as it was nobody can tell whether its translation still holds.
    engine_->CodeChanged();
  }
}

// Now and then all private pages are given back: those that are still needed return with the next calls, the others
// would be refreshed for nothing for ever. Where nearly all returned it is done half as often from then on.
void Shadow::Collect() {
  const bool forgot = std::exchange(forgets_, ++collections_ >= forget_after_);
  const size_t before = memory_.page_count();
  memory_.CollectPrivatePages(forgets_ ? 0 : options_.keep_pages);
  if (forgets_) {
    forgotten_ = before;
    collections_ = 0;
  } else if (forgot) {
    const bool in_vain = memory_.page_count() * kMostReturn >= forgotten_ * (kMostReturn - 1);
    forget_after_ = in_vain ? std::min(forget_after_ * 2, kForgetLatest) : kForgetFirst;
  }
}

const Context& Shadow::Load(const std::vector<VcpuState>& vcpus) {
  context_.reset();
  try {
    context_ = BuildContext(recipe_, vcpus, memory_, &scratch_);
  } catch (const Error&) {
    // What looks corrupt may be memory that is no longer there.
    memory_.RequireWhole();
    throw;
  }
  PrepareStack();
  state_before_ = 0;
  Read(recipe_.borrowed_task + recipe_.task_state, &state_before_, recipe_.task_state_width);
  engine_->Load(context_->cpu);
  return *context_;
}

BatchResult Shadow::Run(const Batch& batch) {
  if (!context_) throw Error("INTERNAL", "a call in a shadow that is not loaded");
  KeepState();
  const uint64_t limit = engine_->CountsInstructions() ? options_.instruction_limit : 0;
  batch_run_.Start(batch, recipe_, *context_, context_->stack_top - kFrameBytes, limit != 0);
  // In the middle of kernel code a call may wait for what the stopped guest will never do: that shows soon.
  const bool may_spin = context_->stop_class == StopClass::kKernel;
  timer_->Arm(std::chrono::nanoseconds(options_.time_limit_ns / (may_spin ? kSpinShare : 1)),
              std::chrono::nanoseconds(options_.time_limit_ns) * kLongestBatch);
  BatchResult result;
  result.values.reserve(batch.step_count());
  do {
    const Outcome outcome = EnterProgram(limit);
    if (batch_run_.slept()) TakeBackSignal();
    if (outcome.reason != StopReason::kReturned) {
      batch_run_.Abandon(&result);
      result.failure = Explain(outcome);
      result.failure->callers = FindCallers(outcome.stack, kMostCallers);
      break;
    }
  } while (batch_run_.Continue(&result));
  timer_->Disarm();
  if (result.failure) failed_ = std::exchange(context_, std::nullopt);
  memory_.RequireWhole();
  return result;
}

Outcome Shadow::EnterProgram(uint64_t instruction_limit) {
  CallRegisters call{};
  call.function = batch_run_.entry();
  call.stack = StackPointer();
  call.arguments[0] = batch_run_.argument();
  return engine_->Call(call, context_->scratch_address + Scratch::kReturnOffset, instruction_limit);
}

// Above the program's frame: what it returns to stays there from batch to batch.
void Shadow::PrepareStack() {
  const uint64_t return_address = context_->scratch_address + Scratch::kReturnOffset;
  if (WriteVirtual(memory_.table(), context_->space, StackPointer(), &return_address, sizeof return_address) !=
      sizeof return_address) {
    throw Error("CORRUPT", "the borrowed task's stack is not mapped", StackPointer());
  }
}

// stack_top is a multiple of 16 and the frame's 168 bytes are 8 more than one: with the return address below it the
// stack is aligned as after a call instruction.
uint64_t Shadow::StackPointer() const { return context_->stack_top - kFrameBytes - 8; }

void Shadow::Recover() {
  if (!failed_) throw Error("INTERNAL", "nothing to recover from");
  context_ = std::exchange(failed_, std::nullopt);
  ApplyPatches(recipe_, *context_, memory_);
  PrepareStack();
  TakeBackSignal();
  engine_->Load(context_->cpu);
}

uint64_t Shadow::window_address() const {
  if (!context_) throw Error("INTERNAL", "the window of a shadow that is not loaded");
  return context_->scratch_address + Scratch::kPayloadOffset;
}

uint64_t Shadow::Write(uint64_t address, const void* bytes, uint64_t length) const {
  if (!context_) throw Error("INTERNAL", "a write in a shadow that is not loaded");
  return WriteVirtual(memory_.table(), context_->space, address, bytes, length);
}

uint64_t Shadow::Read(uint64_t address, void* out, uint64_t length) const {
  if (!context_) throw Error("INTERNAL", "a read in a shadow that is not loaded");
  return ReadVirtual(memory_.table(), context_->space, address, out, length);
}

uint64_t Shadow::Read(uint64_t root, uint64_t address, void* out, uint64_t length) const {
  return ReadVirtual(memory_.table(), {root, recipe_.levels}, address, out, length);
}

uint64_t Shadow::root() const {
  if (!context_) throw Error("INTERNAL", "the memory of a shadow that is not loaded");
  return context_->space.root;
}

uint64_t Shadow::Write(uint64_t root, uint64_t address, const void* bytes, uint64_t length) {
  const AddressSpace space{root, recipe_.levels};
  const uint64_t done = WriteVirtual(memory_.table(), space, address, bytes, length);
  NoteCode();
  bool code = false;
  const uint64_t first = address & ~kPageMask;
  for (uint64_t at = 0; at < address - first + done; at += kPageSize) {
    const uint64_t gpa = Translate(memory_.table(), space, first + at).gpa;
    code = code || code_watch_.Covers(gpa);
    written_.push_back(gpa);
  }
  if (code) engine_->CodeChanged();
  return done;
}

TrapHandler::Action Shadow::OnTrap(size_t index, uint64_t argument, uint64_t stack, uint64_t* result) {
  const TrapRule& trap = recipe_.traps[index];
  switch (trap.kind) {
    case TrapRule::Kind::kSkip:
      *result = trap.value;
      return Action::kReturn;
    case TrapRule::Kind::kSchedule: {
      // __schedule(SM_PREEMPT) or a running task giving way: there is nobody to give way to.
      uint64_t state = 0;
      Read(recipe_.borrowed_task + recipe_.task_state, &state, recipe_.task_state_width);
      const bool voluntary = (argument & 0xffffffff) == 1 || state == 0;
      return voluntary || UnlockPage(stack) || EndSleep(state) ? Action::kReturn : Action::kStop;
    }
    case TrapRule::Kind::kSignal:
      if (!batch_run_.slept()) return Action::kProceed;
      TakeBackSignal();
      return Action::kReturn;
    case TrapRule::Kind::kReadLock:
    case TrapRule::Kind::kLock:
      *result = argument;
      if (IsHarmlessReader(stack)) return Action::kReturn;
      return trap.kind == TrapRule::Kind::kLock ? Action::kStop : Action::kProceed;
    case TrapRule::Kind::kBug:
      return Action::kStop;
  }
  return Action::kStop;
}

// The first caller that does not itself take locks for others.
bool Shadow::IsHarmlessReader(uint64_t stack) const {
  const auto within = [](const std::vector<CodeRange>& ranges, uint64_t address) {
    return std::any_of(ranges.begin(), ranges.end(), [&](const CodeRange& range) { return range.Contains(address); });
  };
  for (const uint64_t caller : FindCallers(stack, kMostLockCallers)) {
    if (within(recipe_.harmless_readers, caller)) return true;
    if (!within(recipe_.lock_functions, caller)) return false;
  }
  return false;
}

// A task that sleeps in a state which signals end is told that a fatal one came: the kernel then undoes what it was
// about to wait for and leaves the call by its own way. False where that cannot be done, or was done in vain.
bool Shadow::EndSleep(uint64_t state) {
  if (!recipe_.signal || (state & recipe_.signal->sleep_states) == 0 || batch_run_.slept()) return false;
  batch_run_.set_slept();
  ChangeTask(recipe_.signal->flags, 0, recipe_.signal->flags_set, 8);
  ChangeTask(recipe_.signal->pending, 0, recipe_.signal->pending_set, 8);
  return true;
}

// The guest was stopped while it had a page of a file locked that holds what it should: not one that is still being
// read from a disk, which is an error to whoever has waited for it. Does what unlocking it does for whoever waits
// (mm/filemap.c, folio_unlock and wake_page_function). What is on the stack may be left from an earlier wait: then the
// page is not locked.
bool Shadow::UnlockPage(uint64_t stack) {
  if (!recipe_.page_wait || !OnStack(stack)) return false;
  const PageWait& wait = *recipe_.page_wait;
  static constexpr uint32_t kWoken = 0x02;  // WQ_FLAG_WOKEN (include/linux/wait.h)
  if (wait.locked >= 64 || wait.up_to_date >= 64) return false;
  const uint64_t locked = uint64_t{1} << wait.locked;
  const uint64_t locked_and_whole = locked | uint64_t{1} << wait.up_to_date;
  for (uint64_t at = stack & ~uint64_t{7}; at < context_->stack_top - kFrameBytes; at += 8) {
    uint64_t word = 0;
    if (Read(at, &word, sizeof word) != sizeof word) return false;
    if (word != wait.wake_function) continue;
    const uint64_t entry = at - wait.function;
    uint64_t page = 0, page_flags = 0;
    uint32_t bit = 0, flags = 0;
    const bool whole = Read(entry + wait.page, &page, sizeof page) == sizeof page &&
                       Read(entry + wait.bit, &bit, sizeof bit) == sizeof bit &&
                       Read(entry + wait.flags, &flags, sizeof flags) == sizeof flags &&
                       Read(page + wait.page_flags, &page_flags, sizeof page_flags) == sizeof page_flags;
    if (!whole || bit != wait.locked || (page_flags & locked_and_whole) != locked_and_whole) continue;
    page_flags &= ~locked;
    flags |= kWoken;
    return Write(page + wait.page_flags, &page_flags, sizeof page_flags) == sizeof page_flags &&
           Write(entry + wait.flags, &flags, sizeof flags) == sizeof flags;
  }
  return false;
}

void Shadow::TakeBackSignal() {
  if (!recipe_.signal) return;
  ChangeTask(recipe_.signal->flags, recipe_.signal->flags_set, 0, 8);
  ChangeTask(recipe_.signal->pending, recipe_.signal->pending_set, 0, 8);
  KeepState();
}

// Kernel code that waits for something leaves the borrowed task runnable that was asleep: whoever asks next is told
// what it is in the guest.
void Shadow::KeepState() {
  uint64_t state = 0;
  Read(recipe_.borrowed_task + recipe_.task_state, &state, recipe_.task_state_width);
  if (state != state_before_) ChangeTask(recipe_.task_state, ~uint64_t{0}, state_before_, recipe_.task_state_width);
}

void Shadow::ChangeTask(uint64_t offset, uint64_t clear, uint64_t set, uint32_t width) {
  const uint64_t address = recipe_.borrowed_task + offset;
  uint64_t word = 0;
  ReadVirtual(memory_.table(), context_->space, address, &word, width);
  word = (word & ~clear) | set;
  WriteVirtual(memory_.table(), context_->space, address, &word, width);
}

CallFailure Shadow::Explain(const Outcome& outcome) const {
  switch (outcome.reason) {
    case StopReason::kTrap: {
      const TrapRule& trap = recipe_.traps[outcome.value];
      if (trap.kind == TrapRule::Kind::kSchedule) return {"WOULD_BLOCK", "the call would sleep", outcome.rip, {}};
      if (trap.kind == TrapRule::Kind::kLock) {
        return {"LOCKED", "the call needs a lock that the guest holds (" + trap.name + ")", outcome.rip, {}};
      }
      return {"GUEST_BUG", "the guest kernel reported a bug during the call (" + trap.name + ")", outcome.rip, {}};
    }
    case StopReason::kException:
      if (outcome.value == 14) {
        return {"GUEST_FAULT", "the call touched the unmapped address " + Hex(outcome.address), outcome.rip, {}};
      }
      if (outcome.value == 6) return {"GUEST_BUG", "the guest kernel ran into a BUG or WARN", outcome.rip, {}};
      return {"GUEST_FAULT", "CPU exception " + std::to_string(outcome.value) + " during the call", outcome.rip, {}};
    case StopReason::kDevice:
      return {
          "DEVICE_ACCESS", "the call needs a device of the guest (at " + Hex(outcome.address) + ")", outcome.rip, {}};
    case StopReason::kHalted:
      return {"GUEST_FAULT", "the call halted the CPU", outcome.rip, {}};
    case StopReason::kWatchdog:
      return {"WATCHDOG", "the call ran out of its time or instructions", outcome.rip, {}};
    case StopReason::kReturned:
    case StopReason::kFailed:
      break;
  }
  return {"ENGINE", "the engine gave up (error " + std::to_string(outcome.value) + ")", outcome.rip, {}};
}

bool Shadow::OnStack(uint64_t address) const {
  return address < context_->stack_top && context_->stack_top - address <= recipe_.stack_size;
}

// Unwinding would need the kernel's ORC tables; the return addresses are on the stack all the same.
std::vector<uint64_t> Shadow::FindCallers(uint64_t stack, size_t most) const {
  std::vector<uint64_t> callers;
  if (!OnStack(stack)) return callers;
  for (uint64_t at = stack & ~uint64_t{7}; at < context_->stack_top - kFrameBytes && callers.size() < most; at += 8) {
    uint64_t word;
    if (Read(at, &word, sizeof word) != sizeof word) break;
    if (word >= recipe_.text_start && word < recipe_.text_end) callers.push_back(word);
  }
  return callers;
}

}  // namespace penumbra
