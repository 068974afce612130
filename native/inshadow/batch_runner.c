/* Runs a whole batch of calls inside a shadow: at privilege level 0, on the stack of the calls, without leaving the
 * virtual machine in between. Freestanding and position independent: scripts/inshadow makes it a flat piece of code
 * that begins with run_batch. It uses no vector registers, no red zone and no data of its own. Bytes are hardly ever
 * moved: arguments point into what the host has put in place, and the host takes results from where calls left them. */
#include "batch_runner.h"

/* The records of the encoded batch as in native/shadow/batch.h; native/shadow/batch_run.cc compares them. */
enum { KIND_VALUE, KIND_IN, KIND_OUT, KIND_IN_OUT, KIND_RESULT };
enum { LENGTH_IS_RESULT = 1 };
enum { STEP_REPEAT = 1, STEP_FUNCTION = 2, STEP_DIRECT = 4, STEP_PROGRAM = 8 };

struct argument {
  uint32_t kind, flags, size, payload;
  uint64_t value;
  uint32_t fixups, fixup_count;
};
struct step {
  uint64_t target;
  uint32_t flags, argument_count, first_argument, limit;
};

/* struct pt_regs, arch/x86/include/asm/ptrace.h */
enum {
  REGS_R10 = 7,
  REGS_R9 = 8,
  REGS_R8 = 9,
  REGS_AX = 10,
  REGS_DX = 12,
  REGS_SI = 13,
  REGS_DI = 14,
  REGS_ORIG_AX = 15
};

/* include/linux/errno.h: what signal delivery would have turned into EINTR. */
enum { FIRST_RESTART = 512, LAST_RESTART = 516, LAST_ERROR = 4095, ERRNO_EINTR = 4 };

/* What the call of one step works on; it lives on the stack. */
struct call {
  const struct step* step;
  const struct argument* arguments;
  uint64_t values[RUNNER_MOST_ARGUMENTS];
};

typedef uint64_t (*function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

static int is_error(int64_t value) { return value < 0 && value >= -LAST_ERROR; }

static uint64_t align(uint64_t size) {
  return (size + RUNNER_BUFFER_ALIGNMENT - 1) & ~(uint64_t)(RUNNER_BUFFER_ALIGNMENT - 1);
}

/* Zeroes user memory, which supervisor mode access prevention closes otherwise. Buffers are padded to whole words. */
static void clear(const struct runner_state* state, uint64_t offset, uint64_t size) {
  uint64_t* words = (uint64_t*)(state->data + offset);
  if (state->user_access) __asm__ volatile("stac" ::: "memory");
  for (uint64_t i = 0; i < size / 8; i++) words[i] = 0;
  if (state->user_access) __asm__ volatile("clac" ::: "memory");
}

/* Sets the values of the arguments. Returns the error of the earlier step because of which this one is not run, or 0;
 * `*full` tells that there is no room for what the call may give back. */
static int64_t prepare(struct runner_state* state, struct call* call, int* full) {
  const int64_t* results = (const int64_t*)state->values;
  uint64_t end = state->data_used;
  int64_t skipped = 0;
  *full = state->outs_limit - state->outs_count < RUNNER_MOST_ARGUMENTS;
  for (uint32_t i = 0; i < RUNNER_MOST_ARGUMENTS; i++) {
    const struct argument* argument = &call->arguments[i];
    uint64_t value = 0;
    if (i < call->step->argument_count) {
      switch (argument->kind) {
        case KIND_VALUE:
          value = argument->value;
          break;
        case KIND_RESULT:
          value = (uint64_t)results[argument->value];
          if (is_error((int64_t)value)) skipped = (int64_t)value;
          break;
        case KIND_OUT:
          value = state->data + end;
          end += align(argument->size);
          break;
        default:
          value = state->payload + argument->payload;
      }
    }
    call->values[i] = value;
  }
  if (end > state->data_size) *full = 1;
  return skipped;
}

/* Structures are given to the guest zeroed; buffers whose length it tells need not be. */
static void clear_outs(struct runner_state* state, const struct call* call) {
  for (uint32_t i = 0; i < call->step->argument_count; i++) {
    const struct argument* argument = &call->arguments[i];
    if (argument->kind != KIND_OUT) continue;
    const uint64_t offset = call->values[i] - state->data;
    const uint64_t end = offset + align(argument->size);
    if (!(argument->flags & LENGTH_IS_RESULT) && offset < state->data_dirty) {
      clear(state, offset, (end < state->data_dirty ? end : state->data_dirty) - offset);
    }
    if (state->data_dirty < end) state->data_dirty = end;
  }
}

static int64_t enter_kernel(struct runner_state* state, const struct call* call) {
  const struct step* step = call->step;
  const uint64_t* values = call->values;
  uint64_t* frame = (uint64_t*)state->frame;
  state->calls++;
  state->slept = 0;
  if (step->flags & STEP_PROGRAM) {
    return (int64_t)((function)state->programs[step->target])(values[0], values[1], values[2], values[3], values[4],
                                                              (uint64_t)state);
  }
  if (step->flags & STEP_FUNCTION) {
    return (int64_t)((function)step->target)(values[0], values[1], values[2], values[3], values[4], values[5]);
  }
  for (int i = 0; i < RUNNER_PT_REGS_WORDS; i++) frame[i] = state->frame_template[i];
  frame[REGS_DI] = values[0];
  frame[REGS_SI] = values[1];
  frame[REGS_DX] = values[2];
  frame[REGS_R10] = values[3];
  frame[REGS_R8] = values[4];
  frame[REGS_R9] = values[5];
  frame[REGS_ORIG_AX] = step->target;
  if (step->flags & STEP_DIRECT) {
    return (int64_t)((const function*)state->syscall_table)[step->target](state->frame, 0, 0, 0, 0, 0);
  }
  if (state->registers_first) {
    ((function)state->dispatch)(state->frame, step->target, 0, 0, 0, 0);
  } else {
    ((function)state->dispatch)(step->target, state->frame, 0, 0, 0, 0);
  }
  return (int64_t)frame[REGS_AX];
}

/* A call that would have slept was ended by a signal, which it may report in the kernel's own way. */
static int64_t after_sleep(struct runner_state* state, int64_t value) {
  if (!state->slept) return value;
  ((uint8_t*)state->blocked)[state->step] = 1;
  return -value >= FIRST_RESTART && -value <= LAST_RESTART ? -ERRNO_EINTR : value;
}

/* Records the buffers that are given back. False when the guest claims more than they hold. */
static int give_back(struct runner_state* state, const struct call* call, int64_t value) {
  struct runner_out* outs = (struct runner_out*)state->outs;
  for (uint32_t i = 0; i < call->step->argument_count; i++) {
    const struct argument* argument = &call->arguments[i];
    uint64_t length = argument->size;
    if (argument->kind != KIND_OUT && argument->kind != KIND_IN_OUT) continue;
    if (argument->flags & LENGTH_IS_RESULT) {
      length = value > 0 ? (uint64_t)value : 0;
      if (length > argument->size) return 0;
    }
    if (length == 0) continue;
    struct runner_out* out = &outs[state->outs_count++];
    out->step = state->step;
    out->argument = call->step->first_argument + i;
    out->offset = 0;
    out->length = (uint32_t)length;
    if (argument->kind == KIND_OUT) {
      out->offset = (uint32_t)(call->values[i] - state->data);
      state->data_used = out->offset + align(length);
    }
  }
  return 1;
}

/* Takes the value of a call into account; false when the step needs another one. */
static int ends_step(struct runner_state* state, const struct step* step, int64_t value) {
  if (!(step->flags & STEP_REPEAT)) {
    state->total = (uint64_t)value;
    return 1;
  }
  if (value <= 0) {
    if (value < 0) state->total = (uint64_t)value;
    return 1;
  }
  state->total += (uint64_t)value;
  return state->total >= step->limit;
}

static void finish_step(struct runner_state* state, int64_t value) {
  ((int64_t*)state->values)[state->step++] = value;
  state->total = 0;
}

/* The signal that ended a sleep is taken back by the kernel's own way out of a system call. Other calls do not have
 * one. */
static int left_signal(const struct runner_state* state, const struct step* step) {
  return state->slept && (step->flags & (STEP_FUNCTION | STEP_DIRECT | STEP_PROGRAM));
}

/* A buffer that the next call writes to as well has to be taken out before. */
static int is_reused(const struct call* call) {
  for (uint32_t i = 0; i < call->step->argument_count; i++) {
    if (call->arguments[i].kind == KIND_IN_OUT) return 1;
  }
  return 0;
}

static enum runner_status run(struct runner_state* state) {
  while (state->step < state->step_count) {
    struct call call;
    int full;
    call.step = (const struct step*)state->steps + state->step;
    call.arguments = (const struct argument*)state->arguments + call.step->first_argument;
    const int64_t skipped = prepare(state, &call, &full);
    if (skipped) {
      finish_step(state, skipped);
      continue;
    }
    if (full) return RUNNER_FULL;
    clear_outs(state, &call);
    const int64_t value = after_sleep(state, enter_kernel(state, &call));
    if (!give_back(state, &call, value)) return RUNNER_TOO_LONG;
    const int ended = ends_step(state, call.step, value);
    if (ended) finish_step(state, (int64_t)state->total);
    if (state->one_call || left_signal(state, call.step) || (!ended && is_reused(&call))) return RUNNER_CALLED;
  }
  return RUNNER_DONE;
}

__attribute__((section(".text.entry"))) void run_batch(struct runner_state* state) {
  state->status = RUNNER_INTERRUPTED;
  state->status = run(state);
}
