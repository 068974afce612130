// include/linux/sched.h; the values have been the same since 4.14, those of the last two are unused before 5.16 and 6.1
const TASK_REPORT = 0x7f;
const TASK_UNINTERRUPTIBLE = 0x2;
const TASK_NOLOAD = 0x400;
const TASK_IDLE = TASK_UNINTERRUPTIBLE | TASK_NOLOAD;
const TASK_RTLOCK_WAIT = 0x1000;
const TASK_FROZEN = 0x8000;

/** fs/proc/array.c, task_state_array: by the highest bit set */
const LETTERS = 'RSDTtXZP';

/**
 * The state letter that the guest's /proc/PID/stat shows: fs/proc/array.c, get_task_state(), and
 * include/linux/sched.h, __task_state_index().
 *
 * @param state task_struct.__state
 * @param exitState task_struct.exit_state
 */
export function stateLetter(state: number, exitState: number): string {
  if ((state & TASK_IDLE) === TASK_IDLE) return 'I';
  if ((state & (TASK_RTLOCK_WAIT | TASK_FROZEN)) !== 0) return 'D';
  const reported = (state | exitState) & TASK_REPORT;
  return LETTERS[32 - Math.clz32(reported)] ?? '?';
}
