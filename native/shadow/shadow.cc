#include "shadow/shadow.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "error.h"

namespace penumbra {

namespace {

// struct pt_regs, arch/x86/include/asm/ptrace.h; the order is that of the syscall ABI and never changed.
enum PtRegs { kR10 = 7, kR9 = 8, kR8 = 9, kAx = 10, kCx = 11, kDx = 12, kSi = 13, kDi = 14, kOrigAx = 15, kIp = 16,
              kCs = 17, kFlags = 18, kSp = 19, kSs = 20, kPtRegsWords = 21 };
constexpr uint64_t kFrameBytes = kPtRegsWords * 8;
constexpr uint64_t kForgetEvery = 16;
constexpr size_t kMostCallers = 24;
constexpr uint64_t kSpinShare = 8;
constexpr size_t kMostLockCallers = 4;
constexpr uint64_t kEnosys = 38;
constexpr int64_t kEintr = 4;
// ERESTARTSYS to ERESTART_RESTARTBLOCK, include/linux/errno.h: what signal delivery would have turned into EINTR.
constexpr int64_t kFirstRestart = 512;
constexpr int64_t kLastRestart = 516;
constexpr uint64_t kUserFlags = 0x202;
constexpr uint8_t kHlt = 0xf4;
// Strings are read in words; the last bytes of the data area stay unused so that no read leaves it.
constexpr uint64_t kDataGuard = 64;

bool IsError(int64_t value) { return value < 0 && value >= -4095; }

std::string Hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

// Where the buffers of one step were put in the scratch data.
struct Shadow::Placement {
  struct Buffer {
    uint32_t argument;
    uint64_t offset;
    uint32_t size;
    uint32_t flags;
  };
  uint64_t used = 0;
  std::vector<Buffer> outs;
};

Shadow::Shadow(const GuestRam& ram, Recipe recipe, uint64_t scratch_gpa, const EngineChoice& engine)
    : ram_(ram),
      recipe_(std::move(recipe)),
      memory_(ram, scratch_gpa, Scratch::kSize, engine.name == "kvm" ? Touch::kAnyone : Touch::kUserCode),
      scratch_(memory_),
      engine_(MakeEngine(engine, memory_)),
      timer_(std::make_unique<CallTimer>(engine_.get())),
      code_watch_(ram_, recipe_) {
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
  memory_.Refresh();
  const bool rewritten = std::any_of(written_.begin(), written_.end(),
                                     [this](uint64_t gpa) { return code_watch_.Covers(gpa); });
  written_.clear();
  if (code_watch_.Changed() || rewritten) engine_->CodeChanged();
}

void Shadow::Collect() {
  // Now and then all are given back: those that are still needed return with the next calls, the others would be
  // refreshed for nothing for ever.
  const bool forget = ++collections_ % kForgetEvery == 0;
  memory_.CollectPrivatePages(forget ? 0 : options_.keep_pages);
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
  frame_ = reinterpret_cast<uint64_t*>(
      VirtualAt(memory_.table(), context_->space, context_->stack_top - kFrameBytes - 8, kFrameBytes + 8));
  if (frame_ == nullptr) {
    throw Error("CORRUPT", "the borrowed task's stack is not mapped", context_->stack_top - kFrameBytes);
  }
  frame_ += 1;
  state_before_ = 0;
  Read(recipe_.borrowed_task + recipe_.task_state, &state_before_, recipe_.task_state_width);
  engine_->Load(context_->cpu);
  return *context_;
}

BatchResult Shadow::Run(const Batch& batch) {
  if (!context_) throw Error("INTERNAL", "a call in a shadow that is not loaded");
  BatchResult result;
  result.values.reserve(batch.step_count());
  // In the middle of kernel code a call may wait for what the stopped guest will never do: that shows soon.
  const bool may_spin = context_->stop_class == StopClass::kKernel;
  timer_->Arm(std::chrono::nanoseconds(options_.time_limit_ns / (may_spin ? kSpinShare : 1)));
  for (uint32_t index = 0; index < batch.step_count() && !result.failure; ++index) {
    const StepRecord& step = batch.steps()[index];
    uint64_t arguments[6] = {};
    Placement placement;
    int64_t skipped = 0;
    for (uint32_t i = 0; i < step.argument_count; ++i) {
      const uint32_t record = step.first_argument + i;
      const ArgumentRecord& argument = batch.argument(record);
      if (argument.kind == ArgumentRecord::kResult) {
        const int64_t earlier = result.values[argument.value];
        if (IsError(earlier)) skipped = earlier;
        arguments[i] = static_cast<uint64_t>(earlier);
      } else {
        arguments[i] = Place(batch, record, &placement);
      }
    }
    if (skipped != 0) {
      result.values.push_back(skipped);
      continue;
    }
    uint64_t total = 0;
    for (;;) {
      uint64_t value = 0;
      const Outcome outcome = RunStep(step, arguments, &value);
      if (outcome.reason != StopReason::kReturned) {
        result.failure = Explain(outcome);
        result.failure->callers = FindCallers(outcome.stack, kMostCallers);
        break;
      }
      int64_t signed_value = static_cast<int64_t>(value);
      if (slept_) {
        if (-signed_value >= kFirstRestart && -signed_value <= kLastRestart) signed_value = -kEintr;
        value = static_cast<uint64_t>(signed_value);
        if (result.blocked.empty() || result.blocked.back() != index) result.blocked.push_back(index);
      }
      for (const Placement::Buffer& out : placement.outs) {
        uint64_t length = out.size;
        if ((out.flags & ArgumentRecord::kLengthIsResult) != 0) {
          length = signed_value > 0 ? value : 0;
          if (length > out.size) {
            result.failure = CallFailure{"CORRUPT", "the guest returned more bytes than its buffer holds", 0, {}};
            break;
          }
        }
        if (length == 0) continue;
        result.outs.push_back({index, out.argument, static_cast<uint32_t>(result.bytes.size()),
                               static_cast<uint32_t>(length)});
        const uint8_t* data = scratch_.data() + out.offset;
        result.bytes.insert(result.bytes.end(), data, data + length);
      }
      if (result.failure) break;
      if ((step.flags & StepRecord::kRepeat) == 0) {
        total = value;
        break;
      }
      if (signed_value <= 0) {
        if (signed_value < 0) total = value;
        break;
      }
      total += value;
      if (total >= step.limit) break;
    }
    if (!result.failure) result.values.push_back(static_cast<int64_t>(total));
  }
  timer_->Disarm();
  if (result.failure) failed_ = std::exchange(context_, std::nullopt);
  memory_.RequireWhole();
  return result;
}

void Shadow::Recover() {
  if (!failed_) throw Error("INTERNAL", "nothing to recover from");
  context_ = std::exchange(failed_, std::nullopt);
  ApplyPatches(recipe_, *context_, memory_);
  TakeBackSignal();
  engine_->Load(context_->cpu);
}

uint64_t Shadow::window_address() const {
  if (!context_) throw Error("INTERNAL", "the window of a shadow that is not loaded");
  return context_->scratch_address + Scratch::kDataOffset;
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

uint64_t Shadow::Place(const Batch& batch, uint32_t index, Placement* placement) {
  const ArgumentRecord& argument = batch.argument(index);
  if (argument.kind == ArgumentRecord::kValue) return argument.value;
  const uint64_t offset = (placement->used + 15) & ~uint64_t{15};
  if (argument.size > Scratch::kDataSize - kDataGuard - offset) {
    throw Error("BAD_ARGUMENT", "the arguments of a call do not fit into the shadow's scratch memory");
  }
  placement->used = offset + argument.size;
  uint8_t* data = scratch_.data() + offset;
  if (argument.kind == ArgumentRecord::kOut) {
    if ((argument.flags & ArgumentRecord::kLengthIsResult) == 0) std::memset(data, 0, argument.size);
  } else {
    std::memcpy(data, batch.payload(argument), argument.size);
  }
  if (argument.kind != ArgumentRecord::kIn) {
    placement->outs.push_back({index, offset, argument.size, argument.flags});
  }
  const uint64_t address = context_->scratch_address + Scratch::kDataOffset + offset;
  for (uint32_t i = 0; i < argument.fixup_count; ++i) {
    const FixupRecord& fixup = batch.fixup(argument.fixups + i);
    const uint64_t target = address + fixup.target;
    std::memcpy(data + fixup.offset, &target, sizeof target);
  }
  return address;
}

Outcome Shadow::RunStep(const StepRecord& step, const uint64_t (&arguments)[6], uint64_t* value) {
  ++calls_;
  timer_->NextCall();
  slept_ = false;
  if ((step.flags & StepRecord::kFunction) != 0) {
    const Outcome outcome = CallFunction(step.target, arguments);
    *value = outcome.value;
    return outcome;
  }
  return CallSyscall(step.target, arguments, (step.flags & StepRecord::kDirect) != 0, value);
}

Outcome Shadow::CallFunction(uint64_t function, const uint64_t (&arguments)[6]) {
  const uint64_t return_address = context_->scratch_address + Scratch::kReturnOffset;
  CallRegisters call;
  call.function = function;
  // stack_top is a multiple of 16 and the frame's 168 bytes are 8 more than one: with the return address below it
  // the stack is aligned as after a call instruction.
  call.stack = context_->stack_top - kFrameBytes - 8;
  frame_[-1] = return_address;
  std::copy(std::begin(arguments), std::end(arguments), call.arguments);
  return engine_->Call(call, return_address, options_.instruction_limit);
}

Outcome Shadow::CallSyscall(uint64_t number, const uint64_t (&arguments)[6], bool direct, uint64_t* value) {
  std::fill(frame_, frame_ + kPtRegsWords, 0);
  frame_[kDi] = arguments[0];
  frame_[kSi] = arguments[1];
  frame_[kDx] = arguments[2];
  frame_[kR10] = arguments[3];
  frame_[kR8] = arguments[4];
  frame_[kR9] = arguments[5];
  frame_[kAx] = -kEnosys;
  frame_[kOrigAx] = number;
  frame_[kIp] = frame_[kCx] = context_->scratch_address + Scratch::kDataOffset;
  frame_[kFlags] = kUserFlags;
  frame_[kSp] = context_->scratch_address + Scratch::kSize;
  frame_[kCs] = recipe_.user_code_selector;
  frame_[kSs] = recipe_.user_data_selector;
  const uint64_t frame = context_->stack_top - kFrameBytes;
  if (direct) {
    uint64_t handler = 0;
    if (number >= recipe_.syscall_count ||
        ReadVirtual(memory_.table(), context_->space, recipe_.syscall_table + number * 8, &handler, 8) != 8) {
      throw Error("BAD_ARGUMENT", "no handler for syscall " + std::to_string(number));
    }
    const Outcome outcome = CallFunction(handler, {frame, 0, 0, 0, 0, 0});
    *value = outcome.value;
    return outcome;
  }
  const Outcome outcome = recipe_.registers_first
                              ? CallFunction(recipe_.syscall_dispatch, {frame, number, 0, 0, 0, 0})
                              : CallFunction(recipe_.syscall_dispatch, {number, frame, 0, 0, 0, 0});
  *value = frame_[kAx];
  return outcome;
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
      return voluntary || EndSleep(state) ? Action::kReturn : Action::kStop;
    }
    case TrapRule::Kind::kSignal:
      if (!slept_) return Action::kProceed;
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
  if (!recipe_.signal || (state & recipe_.signal->sleep_states) == 0 || slept_) return false;
  slept_ = true;
  ChangeTask(recipe_.signal->flags, 0, recipe_.signal->flags_set, 8);
  ChangeTask(recipe_.signal->pending, 0, recipe_.signal->pending_set, 8);
  return true;
}

void Shadow::TakeBackSignal() {
  if (!recipe_.signal) return;
  ChangeTask(recipe_.signal->flags, recipe_.signal->flags_set, 0, 8);
  ChangeTask(recipe_.signal->pending, recipe_.signal->pending_set, 0, 8);
  ChangeTask(recipe_.task_state, ~uint64_t{0}, state_before_, recipe_.task_state_width);
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
      return {"DEVICE_ACCESS", "the call needs a device of the guest (at " + Hex(outcome.address) + ")", outcome.rip, {}};
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

// Unwinding would need the kernel's ORC tables; the return addresses are on the stack all the same.
std::vector<uint64_t> Shadow::FindCallers(uint64_t stack, size_t most) const {
  std::vector<uint64_t> callers;
  if (stack >= context_->stack_top || context_->stack_top - stack > recipe_.stack_size) return callers;
  for (uint64_t at = stack & ~uint64_t{7}; at < context_->stack_top - kFrameBytes && callers.size() < most; at += 8) {
    uint64_t word;
    if (Read(at, &word, sizeof word) != sizeof word) break;
    if (word >= recipe_.text_start && word < recipe_.text_end) callers.push_back(word);
  }
  return callers;
}

}  // namespace penumbra
