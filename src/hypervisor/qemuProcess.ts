import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { PenumbraError } from '../errors.js';
import { isQemu, parseCommandLine, type QemuCommandLine } from './commandLine.js';

/** A running QEMU, as /proc shows it. */
export interface QemuProcess {
  pid: number;
  uid: number;
  /** clock ticks since the host's boot; with the pid it names this process for ever */
  startTime: bigint;
  commandLine: QemuCommandLine;
}

/** @returns undefined where the process is none, ended, or is not QEMU */
export function readQemuProcess(pid: number): QemuProcess | undefined {
  try {
    const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1);
    if (!isQemu(exeOf(pid), args)) return undefined;
    return { pid, uid: uidOf(pid), startTime: startTimeOf(pid), commandLine: parseCommandLine(args) };
  } catch {
    return undefined;
  }
}

/** Every QEMU that this user can see, in the order of pids. */
export function listQemuProcesses(): QemuProcess[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((name) => readQemuProcess(Number(name)) ?? []).sort((a, b) => a.pid - b.pid);
}

/** What to call a guest: its -name, otherwise its pid. */
export function guestName(qemu: QemuProcess): string {
  return qemu.commandLine.name ?? String(qemu.pid);
}

/**
 * Paths of the guest's QMP sockets as this process can reach them: relative ones against QEMU's working directory, and
 * all of them through QEMU's root where that is another one (a container).
 */
export function monitorPaths(qemu: QemuProcess): string[] {
  return qemu.commandLine.monitors.flatMap((monitor) => {
    const path = 'path' in monitor ? monitor.path : pathOfListener(qemu.pid, monitor.fd);
    if (path === undefined) return [];
    const absolute = isAbsolute(path) ? path : join(linkOf(`/proc/${qemu.pid}/cwd`) ?? '/', path);
    return [hasOurRoot(qemu.pid) ? absolute : `/proc/${qemu.pid}/root${absolute}`];
  });
}

/**
 * The QEMU behind a QMP socket. `listener` is what SO_PEERCRED says: who called listen(2), which is QEMU unless it was
 * handed the socket; then QEMU is found by the socket among its open files.
 * @throws PenumbraError NOT_QEMU, PERMISSION
 */
export function qemuBehindSocket(path: string, listener: number): QemuProcess {
  const direct = readQemuProcess(listener);
  if (direct) return direct;
  const inodes = new Set(
    unixSockets(listener > 0 ? listener : 'self')
      .filter((s) => s.path === path)
      .map((s) => s.inode),
  );
  const holder = listQemuProcesses().find((qemu) => socketInodes(qemu.pid).some((inode) => inodes.has(inode)));
  if (holder) return holder;
  if (listener === 0) {
    throw new PenumbraError(
      'PERMISSION',
      `the process behind ${path} is not visible from this pid namespace (run penumbra on the host)`,
    );
  }
  throw new PenumbraError(
    'NOT_QEMU',
    `${path} belongs to process ${listener} (${commandOf(listener)}), which is not QEMU`,
  );
}

/** One row of /proc/net/unix. */
export interface UnixSocketRow {
  inode: string;
  listening: boolean;
  /** an accepted connection; the kernel shows the listener's path for it */
  connected: boolean;
  path: string;
}

/** Named unix sockets of the network namespace of `pid` (proc_pid_net(5); flags and states as in net/unix/af_unix.c). */
export function unixSockets(pid: number | 'self'): UnixSocketRow[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/net/unix`, 'utf8');
  } catch {
    return [];
  }
  return text.split('\n').flatMap((line) => {
    const row = /^\S+: \S+ \S+ (\S+) \S+ (\S+) +(\d+) (.+)$/.exec(line);
    if (!row) return [];
    const [, flags, state, inode, path] = row;
    return [{ inode: inode ?? '', listening: flags === '00010000', connected: state === '03', path: path ?? '' }];
  });
}

/** The program of a process, for messages. */
export function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'ended';
  }
}

/** @throws PenumbraError GUEST_GONE */
export function startTimeOf(pid: number): bigint {
  try {
    return statOf(pid).startTime;
  } catch (cause) {
    throw new PenumbraError('GUEST_GONE', `process ${pid} ended`, { cause });
  }
}

/** Whether this very process still runs, and not another one that has its pid now. */
export function isRunning(pid: number, startTime: bigint): boolean {
  try {
    const stat = statOf(pid);
    return stat.startTime === startTime && stat.state !== 'Z';
  } catch {
    return false;
  }
}

/** proc_pid_stat(5): fields 3 and 22. */
function statOf(pid: number): { state: string; startTime: bigint } {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The second field is the command in parentheses, which may hold anything: count from the last one.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { state: fields[0] ?? '', startTime: BigInt(fields[19] ?? '0') };
}

function uidOf(pid: number): number {
  return Number(/^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

function exeOf(pid: number): string | undefined {
  return linkOf(`/proc/${pid}/exe`);
}

function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function hasOurRoot(pid: number): boolean {
  const theirs = linkOf(`/proc/${pid}/ns/mnt`);
  return (
    (theirs === undefined || theirs === linkOf('/proc/self/ns/mnt')) && (linkOf(`/proc/${pid}/root`) ?? '/') === '/'
  );
}

function pathOfListener(pid: number, fd: number): string | undefined {
  const inode = /^socket:\[(\d+)\]$/.exec(linkOf(`/proc/${pid}/fd/${fd}`) ?? '')?.[1];
  return unixSockets(pid).find((socket) => socket.inode === inode)?.path;
}

function socketInodes(pid: number): string[] {
  try {
    const links = readdirSync(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`) ?? '');
    return links.flatMap((link) => /^socket:\[(\d+)\]$/.exec(link)?.[1] ?? []);
  } catch {
    return [];
  }
}
