import { readFileSync } from 'node:fs';

/** How to get the right to look at a process (ptrace(2), PTRACE_MODE_READ), for messages. Yama has no part in it. */
export const LOOK_RIGHT = "run penumbra as root, as QEMU's user or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";

const NOBODY = "kernel.yama.ptrace_scope is 3: until this host's next boot nobody may, root neither";
/** Of CAP_SYS_PTRACE: include/uapi/linux/capability.h. */
const TRACE_CAPABILITY = 19n;

/**
 * How to get the right to trace a process (ptrace(2), PTRACE_MODE_ATTACH), for messages. What /proc/PID has of another
 * user's process takes the right to read that user's files as well. On Yama see
 * Documentation/admin-guide/LSM/Yama.rst: from 1 on a user may not trace even processes of the same user, with 3 nobody
 * traces anything, and no way leads back from there.
 */
export function traceRight(): string {
  const scope = yamaScope();
  if (scope === '3') return NOBODY;
  const yama = scope === '0' ? '' : `, or as QEMU's user with kernel.yama.ptrace_scope=0 (Yama has it at ${scope})`;
  return `run penumbra as root or with CAP_SYS_PTRACE (and CAP_DAC_READ_SEARCH for another user's QEMU)${yama}`;
}

/** Why Yama does not even let this process trace its own children, and what would help; undefined where it may. */
export function childRefusal(): string | undefined {
  const scope = yamaScope();
  if (scope === '3') return NOBODY;
  if (scope !== '2' || hasTraceCapability()) return undefined;
  return 'kernel.yama.ptrace_scope is 2 (run penumbra as root or with CAP_SYS_PTRACE, or set it to 1)';
}

/** `0` also where the kernel has no Yama. */
function yamaScope(): string {
  try {
    return readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'utf8').trim();
  } catch {
    return '0';
  }
}

function hasTraceCapability(): boolean {
  const effective = /^CapEff:\s+([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> TRACE_CAPABILITY) & 1n) === 1n;
}
