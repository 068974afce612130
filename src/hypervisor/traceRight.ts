import { readFileSync } from 'node:fs';

/**
 * How to get the right to trace a process (ptrace(2), "Ptrace access mode checking"), for messages. On Yama see
 * Documentation/admin-guide/LSM/Yama.rst: from 1 on a user may not trace even processes of the same user.
 */
export function traceRight(): string {
  return `run penumbra as root or with CAP_SYS_PTRACE${yamaAdvice()}`;
}

function yamaAdvice(): string {
  try {
    const scope = readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'utf8').trim();
    return scope === '0' ? '' : `, or, as QEMU's user, set kernel.yama.ptrace_scope=0 (it is ${scope})`;
  } catch {
    return '';
  }
}
