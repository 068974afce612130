/* The contract between the program that runs a batch of calls inside a shadow and its host (native/shadow/batch_run.h).
 * Plain C for both. Everything in it lies in the shadow's scratch memory, where the guest's kernel could write: the
 * host believes nothing that it reads back. */
#ifndef PENUMBRA_NATIVE_INSHADOW_BATCH_RUNNER_H_
#define PENUMBRA_NATIVE_INSHADOW_BATCH_RUNNER_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum runner_constant {
  RUNNER_MOST_ARGUMENTS = 6,
  RUNNER_PT_REGS_WORDS = 21,
  RUNNER_BUFFER_ALIGNMENT = 16,
  RUNNER_PROGRAMS = 1 /* that a step may have run in the place of a call */
};

/* Why the runner came back. */
enum runner_status {
  RUNNER_INTERRUPTED = 0, /* it did not: the call of step `step` ended the run */
  RUNNER_DONE = 1,
  RUNNER_CALLED = 2,  /* a call was made after which the host wants to look, or has something to undo */
  RUNNER_FULL = 3,    /* what came of the calls so far has to be taken out before the next one */
  RUNNER_TOO_LONG = 4 /* the guest says that it returned more bytes than its buffer holds */
};

/* A buffer given back by a call. */
struct runner_out {
  uint32_t step;
  uint32_t argument; /* index of its record */
  uint32_t offset;   /* in the data; where the argument brought its bytes along they are in its own place instead */
  uint32_t length;
};

/* All pointers are guest-virtual. */
struct runner_state {
  /* What to run and with what: set by the host. */
  uint64_t steps, arguments; /* records of the encoded batch, native/shadow/batch.h */
  uint64_t payload;          /* + an argument's `payload`: its bytes, in user memory, pointers in them set */
  uint64_t data;             /* buffers to be written by the calls, user memory */
  uint64_t data_size;
  uint64_t outs; /* struct runner_out for each buffer given back */
  uint64_t outs_limit;
  uint64_t values;  /* int64_t for each step */
  uint64_t blocked; /* uint8_t for each step */
  uint64_t frame;   /* struct pt_regs of the calls */
  uint64_t frame_template[RUNNER_PT_REGS_WORDS];
  uint64_t dispatch; /* do_syscall_64 */
  uint64_t syscall_table;
  uint64_t programs[RUNNER_PROGRAMS]; /* where each is; it gets up to five arguments, and this structure as the sixth */
  uint32_t registers_first;           /* dispatch takes (registers, number), not (number, registers) */
  uint32_t user_access;               /* user memory has to be opened by STAC */
  uint32_t one_call;                  /* come back after each call */
  uint32_t step_count;

  /* How far it is. */
  uint32_t status;
  uint32_t step;
  uint64_t total;      /* bytes that the calls of a repeated step returned so far */
  uint64_t outs_count; /* to be taken out */
  uint64_t data_used;  /* from the start: what is to be taken out */
  uint64_t data_dirty; /* from the start: all that calls may have written to */

  /* Changed while calls are in progress. */
  uint64_t calls; /* begun since the shadow exists */
  uint64_t slept; /* set by the host: the call in progress would have slept and was given a signal instead */
};

#ifdef __cplusplus
}
#endif

#endif /* PENUMBRA_NATIVE_INSHADOW_BATCH_RUNNER_H_ */
