import { readFileSync } from 'node:fs';

/** How to get the right to look at a process (ptrace(2), PTRACE_MODE_READ), for messages. Yama has no part in it. */
export const LOOK_RIGHT = "run penumbra as root, as QEMU's user or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";

/**
 * How to get the right to trace a process (ptrace(2), PTRACE_MODE_ATTACH), for messages. What /proc/PID has of another
 * user's process takes the right to read that user's files as well. On Yama see
 * Documentation/admin-guide/LSM/Yama.rst: from 1 on a user may not trace even processes of the same user, with 3 nobody
 * traces anything, and no way leads back from there.
 */
export function traceRight(): string {
  const scope = yamaScope();
  if (scope === '3') return "kernel.yama.ptrace_scope is 3: until this host's next boot nobody may, root neither";
  const yama = scope === '0' ? '' : `, or as QEMU's user with kernel.yama.ptrace_scope=0 (Yama has it at ${scope})`;
  return `run penumbra as root or with CAP_SYS_PTRACE (and CAP_DAC_READ_SEARCH for another user's QEMU)${yama}`;
}

/** `0` also where the kernel has no Yama. */
function yamaScope(): string {
  try {
    return readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'utf8').trim();
  } catch {
    return '0';
  }
}
