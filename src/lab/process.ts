import { readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** A process as one can find it again: a pid alone may be another process by then. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks since boot (proc(5), field 22 of /proc/PID/stat). */
  startTime: number;
}

/** Undefined when there is no such process. */
export function identify(pid: number): ProcessIdentity | undefined {
  const fields = statFields(pid);
  return fields && { pid, startTime: Number(fields[STARTTIME]) };
}

/** The namespace in which this process sees pids; empty where /proc is not there to tell. */
export function pidNamespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}

export function isAlive(process: ProcessIdentity): boolean {
  const fields = statFields(process.pid);
  return fields !== undefined && Number(fields[STARTTIME]) === process.startTime && fields[STATE] !== 'Z';
}

/** Asks a process to end, insists after `patienceMs`, returns when it is gone. */
export async function endProcess(target: ProcessIdentity, patienceMs: number): Promise<void> {
  signal(target, 'SIGTERM');
  for (let waited = 0; isAlive(target); waited += POLL_MS) {
    if (waited >= patienceMs) signal(target, 'SIGKILL');
    await sleep(POLL_MS);
  }
}

/** Does nothing when the process is gone, or the pid now belongs to another. */
export function signal(target: ProcessIdentity, name: NodeJS.Signals): void {
  if (isAlive(target)) process.kill(target.pid, name);
}

const POLL_MS = 5;

/** Counted from the field behind the name, which may itself hold spaces and brackets. */
const STATE = 0;
const STARTTIME = 19;

function statFields(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}
