import { GuestError, PenumbraError } from '../errors.js';
import { AT_FDCWD, O_DIRECTORY, O_RDONLY } from '../shadow/constants.js';
import { errnoName } from '../shadow/errno.js';
import { readCommandLine } from '../kernel/commandLine.js';
import type { NativeStepResult } from '../shadow/nativeCall.js';
import type { Shadow } from '../shadow/shadow.js';
import { bytesOf, out, StepList, value } from '../shadow/stepList.js';
import { decodeDirents } from '../shadow/structs/dirent.js';
import type { Process } from './records.js';

/** The kernel's own limit is 4 million (PID_MAX_LIMIT); a listing of that many names is about 100 MB. */
const largestListing = 128 << 20;
const statSize = 1024;
const statusSize = 8192;
const largestCommandLine = 2 << 20;
/** USER_HZ, which the kernel's interfaces to programs count in on x86 whatever its own HZ is. */
const ticksPerSecond = 100;
const pageSize = 4096;
const clockRealtime = 0;
const clockBoottime = 7;
/** include/linux/sched.h */
const PF_KTHREAD = 0x200000;

interface Listing {
  proc: bigint;
  pids: string[];
  /** Unix time of the guest's boot in ms, by the guest's clock */
  bootTime: number;
}

interface Status {
  pid: string;
  stat: StatFields;
}

/**
 * All processes that the borrowed task can see in /proc, by pid, as the guest's kernel describes them.
 *
 * @throws GuestError when /proc is not there; CallError when a call does not return; PenumbraError CORRUPT when /proc
 *   holds something else than proc(5) describes
 */
export async function listProcesses(shadow: Shadow): Promise<Process[]> {
  const listing = await readListing(shadow);
  const statuses = await readStatuses(shadow, listing);
  const details = await readDetails(shadow, listing, statuses);
  return statuses.map((status, index) => describe(listing, status, details[index])).sort((a, b) => a.pid - b.pid);
}

async function readListing(shadow: Shadow): Promise<Listing> {
  const list = new StepList();
  const proc = list.open(AT_FDCWD, Buffer.from('/proc'), O_RDONLY | O_DIRECTORY);
  const names = list.readDirectory(proc, largestListing);
  const realtime = list.add('clock_gettime', value(clockRealtime), out(16));
  const boottime = list.add('clock_gettime', value(clockBoottime), out(16));
  const results = await shadow.batch(list.steps);
  requireSuccess(results, proc.step, 'openat');
  requireSuccess(results, names, 'getdents64');
  const pids = decodeDirents(bytesOf(results, names) as Buffer)
    .map((entry) => entry.name.toString('latin1'))
    .filter((name) => /^[1-9]\d{0,9}$/.test(name));
  const now = milliseconds(bytesOf(results, realtime));
  return { proc: (results[proc.step] as NativeStepResult).value, pids, bootTime: now - milliseconds(bytesOf(results, boottime)) };
}

async function readStatuses(shadow: Shadow, { proc, pids }: Listing): Promise<Status[]> {
  const list = new StepList();
  const reads = pids.map((pid) => readSmallFile(list, proc, `${pid}/stat`, statSize));
  const results = await shadow.batch(list.steps);
  const statuses: Status[] = [];
  pids.forEach((pid, index) => {
    const bytes = bytesOf(results, reads[index] as number);
    // A process that is being reaped at this instant is listed and yet gone: ps leaves it out as well.
    if (bytes !== undefined && bytes.length > 0) statuses.push({ pid, stat: parseStat(bytes, pid) });
  });
  return statuses;
}

interface Details {
  status: Buffer | undefined;
  commandLine: Buffer | undefined;
}

/**
 * What only processes with a memory of their own have; kernel threads have no command line and run as root.
 *
 * A process that was stopped while it changed its own memory map holds the lock that reading its command line takes:
 * the bytes are then read through its page tables, as the kernel would once it had the lock.
 */
async function readDetails(shadow: Shadow, { proc }: Listing, statuses: Status[]): Promise<(Details | undefined)[]> {
  const list = new StepList();
  const reads = statuses.map(({ pid, stat }) => {
    if ((stat.flags & PF_KTHREAD) !== 0) return undefined;
    const commandLine = list.open(proc, Buffer.from(`${pid}/cmdline`), O_RDONLY);
    const bytes = list.readAll(commandLine, pageSize, largestCommandLine);
    list.close(commandLine);
    return { status: readSmallFile(list, proc, `${pid}/status`, statusSize), commandLine: bytes };
  });
  const results = await shadow.batch(list.steps, { mayBlock: true });
  return reads.map((read, index) => {
    if (read === undefined) return undefined;
    const status = bytesOf(results, read.status);
    const blocked = results[read.commandLine]?.blocked === true;
    const commandLine = blocked
      ? readCommandLine(shadow.kernel, Number(statuses[index]?.pid))
      : bytesOf(results, read.commandLine);
    return { status, commandLine };
  });
}

/** A file that the kernel gives in one piece. */
function readSmallFile(list: StepList, directory: bigint, path: string, size: number): number {
  const fd = list.open(directory, Buffer.from(path), O_RDONLY);
  const bytes = list.readOnce(fd, size);
  list.close(fd);
  return bytes;
}

function describe({ bootTime }: Listing, { pid, stat }: Status, details: Details | undefined): Process {
  const ids = details?.status === undefined ? undefined : parseIds(details.status);
  return {
    pid: Number(pid),
    ppid: stat.ppid,
    uid: ids?.uid ?? 0,
    gid: ids?.gid ?? 0,
    state: stat.state,
    comm: stat.comm,
    args: splitArguments(details?.commandLine),
    kernelThread: (stat.flags & PF_KTHREAD) !== 0,
    startTime: Math.round(bootTime + (stat.startTicks * 1000) / ticksPerSecond),
    rss: stat.rssPages * pageSize,
    vsize: stat.vsize,
    utime: (stat.utimeTicks * 1000) / ticksPerSecond,
    stime: (stat.stimeTicks * 1000) / ticksPerSecond,
    tty: stat.tty,
    pgrp: stat.pgrp,
    session: stat.session,
    priority: stat.priority,
    nice: stat.nice,
    threads: stat.threads,
    processor: stat.processor,
  };
}

interface StatFields {
  comm: Buffer;
  state: string;
  ppid: number;
  pgrp: number;
  session: number;
  tty: number;
  flags: number;
  utimeTicks: number;
  stimeTicks: number;
  priority: number;
  nice: number;
  threads: number;
  startTicks: number;
  vsize: number;
  rssPages: number;
  processor: number;
}

/** proc(5), /proc/pid/stat. comm may hold anything, parentheses and line ends included; what follows it may not. */
export function parseStat(bytes: Buffer, pid: string): StatFields {
  const open = bytes.indexOf('(');
  const close = bytes.lastIndexOf(')');
  const words = bytes.toString('latin1', close + 2).split(' ');
  if (open < 0 || close < open || words.length < 37) {
    throw new PenumbraError('CORRUPT', `/proc/${pid}/stat of the guest is malformed`);
  }
  /** by the field's number in proc(5) */
  const field = (number: number): number => {
    const parsed = Number(words[number - 3]);
    if (!Number.isFinite(parsed)) {
      throw new PenumbraError('CORRUPT', `field ${number} of /proc/${pid}/stat of the guest is not a number`);
    }
    return parsed;
  };
  return {
    comm: bytes.subarray(open + 1, close),
    state: words[0] as string,
    ppid: field(4),
    pgrp: field(5),
    session: field(6),
    tty: field(7),
    flags: field(9),
    utimeTicks: field(14),
    stimeTicks: field(15),
    priority: field(18),
    nice: field(19),
    threads: field(20),
    startTicks: field(22),
    vsize: field(23),
    rssPages: field(24),
    processor: field(39),
  };
}

/** Effective ids, the second of the four that /proc/pid/status gives. */
function parseIds(status: Buffer): { uid: number; gid: number } | undefined {
  const text = status.toString('latin1');
  const uid = /^Uid:\t\d+\t(\d+)/m.exec(text)?.[1];
  const gid = /^Gid:\t\d+\t(\d+)/m.exec(text)?.[1];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

function splitArguments(commandLine: Buffer | undefined): Buffer[] {
  if (commandLine === undefined || commandLine.length === 0) return [];
  const end = commandLine.at(-1) === 0 ? commandLine.length - 1 : commandLine.length;
  const args: Buffer[] = [];
  let from = 0;
  while (from <= end) {
    const nul = commandLine.indexOf(0, from);
    const to = nul < 0 || nul > end ? end : nul;
    args.push(commandLine.subarray(from, to));
    from = to + 1;
  }
  return args;
}

function milliseconds(timespec: Buffer | undefined): number {
  if (timespec === undefined || timespec.length < 16) return 0;
  return Number(timespec.readBigInt64LE(0)) * 1000 + Number(timespec.readBigInt64LE(8)) / 1e6;
}

function requireSuccess(results: readonly NativeStepResult[], step: number, syscall: string): void {
  const { value: answer } = results[step] as NativeStepResult;
  if (answer < 0n) throw new GuestError(errnoName(Number(-answer)), syscall, '/proc');
}
