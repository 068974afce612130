import { GuestError } from '../errors.js';
import { readCommandLine } from '../kernel/commandLine.js';
import { AT_FDCWD, O_DIRECTORY, O_RDONLY } from '../shadow/constants.js';
import { errnoName } from '../shadow/errno.js';
import type { NativeStepResult } from '../shadow/nativeCall.js';
import type { Shadow } from '../shadow/shadow.js';
import { bytesOf, type Operand, out, StepList, value } from '../shadow/stepList.js';
import { decodeDirents } from '../shadow/structs/dirent.js';
import { stat as statType } from '../shadow/structs/file.js';
import { parseFlags, parseStat } from './procStat.js';
import type { Process } from './records.js';

/** The kernel's own limit is 4 million processes (PID_MAX_LIMIT); a listing of that many names is about 100 MB. */
const largestListing = 128 << 20;
const statSize = 1024;
const largestCommandLine = 2 << 20;
/** USER_HZ, which the kernel's interfaces to programs count in on x86 whatever its own HZ is. */
const ticksPerSecond = 100;
const pageSize = 4096;
const clockRealtime = 0;
const clockBoottime = 7;
/** include/linux/sched.h */
const PF_KTHREAD = 0x200000;

/** What the guest said of its processes, as it said it. Taken while it stands still, to be read when it runs again. */
export interface ProcessSample {
  realtime: Buffer | undefined;
  boottime: Buffer | undefined;
  processes: { pid: string; stat: Buffer; owner: Buffer | undefined; commandLine: Buffer | undefined }[];
}

/** Which processes there will be, by pid, and whether each has memory of its own (kernel threads have none). */
export type ProcessGuess = ReadonlyMap<string, boolean>;

/**
 * All processes that the borrowed task can see in /proc, by pid, as the guest's kernel describes them.
 *
 * @throws GuestError when /proc is not there; CallError when a call does not return; PenumbraError CORRUPT when /proc
 *   holds something else than proc(5) describes
 */
export async function listProcesses(shadow: Shadow): Promise<Process[]> {
  return describeProcesses(await sampleProcesses(shadow, new Map()));
}

/**
 * Reads what `describeProcesses` needs. What `guess` names is asked for with the first batch of calls, what it does not
 * foresee with further ones: a good guess shortens the time for which the guest stands still, a bad one does no harm.
 */
export async function sampleProcesses(shadow: Shadow, guess: ProcessGuess): Promise<ProcessSample> {
  const list = new StepList();
  const proc = list.open(AT_FDCWD, '/proc', O_RDONLY | O_DIRECTORY);
  const names = list.readDirectory(proc, largestListing);
  const realtime = list.add('clock_gettime', value(clockRealtime), out(16));
  const boottime = list.add('clock_gettime', value(clockBoottime), out(16));
  const asked = new Questions(list, proc);
  for (const [pid, hasMemory] of guess) asked.ask(pid, hasMemory);
  const results = await shadow.batch(list.steps, { mayBlock: true });
  requireSuccess(results, proc.step, 'openat');
  requireSuccess(results, names, 'getdents64');
  const fd = (results[proc.step] as NativeStepResult).value;

  const answers = asked.read(results);
  const pids = decodeDirents(bytesOf(results, names) as Buffer)
    .map((entry) => entry.name.toString('latin1'))
    .filter((name) => /^[1-9]\d{0,9}$/.test(name));
  const unforeseen = new Questions(new StepList(), fd);
  for (const pid of pids) if (!answers.has(pid)) unforeseen.ask(pid, false);
  await unforeseen.askAll(shadow, answers);
  const details = new Questions(new StepList(), fd);
  for (const pid of pids) if (lacksDetails(answers.get(pid), pid)) details.askDetails(pid);
  await details.askAll(shadow, answers);

  const processes: ProcessSample['processes'] = [];
  for (const pid of pids) {
    const answer = answers.get(pid);
    // A process that is being reaped at this instant is listed and yet gone: ps leaves it out as well.
    if (answer?.stat === undefined || answer.stat.length === 0) continue;
    const commandLine = await completeCommandLine(shadow, fd, pid, answer);
    processes.push({ pid, stat: answer.stat, owner: answer.owner, commandLine });
  }
  return { realtime: bytesOf(results, realtime), boottime: bytesOf(results, boottime), processes };
}

/** The processes of a sample, by pid. @throws PenumbraError CORRUPT */
export function describeProcesses({ realtime, boottime, processes }: ProcessSample): Process[] {
  const bootTime = milliseconds(realtime) - milliseconds(boottime);
  return processes.map((sampled) => describe(sampled, bootTime)).sort((a, b) => a.pid - b.pid);
}

/** What the next sample will probably find. */
export function guessFrom(processes: readonly Process[]): ProcessGuess {
  return new Map(processes.map(({ pid, kernelThread }) => [String(pid), !kernelThread]));
}

interface Answer {
  stat?: Buffer | undefined;
  owner?: Buffer | undefined;
  commandLine?: Buffer | undefined;
  /** the command line could not be read because the process holds a lock of its memory */
  blocked?: boolean;
}

/** What is asked of single processes in one batch. */
class Questions {
  readonly #list: StepList;
  readonly #proc: Operand;
  readonly #stats = new Map<string, number>();
  readonly #details = new Map<string, { owner: number; commandLine: number }>();

  constructor(list: StepList, proc: Operand) {
    this.#list = list;
    this.#proc = proc;
  }

  ask(pid: string, hasMemory: boolean): void {
    this.#stats.set(pid, this.#readSmallFile(`${pid}/stat`, statSize));
    if (hasMemory) this.askDetails(pid);
  }

  /** What only processes with a memory of their own have; kernel threads have no command line and run as root. */
  askDetails(pid: string): void {
    const owner = this.#list.stat(this.#proc, pid, 0);
    this.#details.set(pid, { owner, commandLine: this.#readSmallFile(`${pid}/cmdline`, pageSize) });
  }

  async askAll(shadow: Shadow, answers: Map<string, Answer>): Promise<void> {
    if (this.#list.steps.length === 0) return;
    const results = await shadow.batch(this.#list.steps, { mayBlock: true });
    for (const [pid, answer] of this.read(results)) answers.set(pid, { ...answers.get(pid), ...answer });
  }

  read(results: readonly NativeStepResult[]): Map<string, Answer> {
    const answers = new Map<string, Answer>();
    for (const [pid, step] of this.#stats) answers.set(pid, { stat: bytesOf(results, step) });
    for (const [pid, { owner, commandLine }] of this.#details) {
      answers.set(pid, {
        ...answers.get(pid),
        owner: bytesOf(results, owner, 2),
        commandLine: bytesOf(results, commandLine) ?? Buffer.alloc(0),
        blocked: results[commandLine]?.blocked === true,
      });
    }
    return answers;
  }

  /** A file that the kernel gives in one piece. */
  #readSmallFile(path: string, size: number): number {
    const fd = this.#list.open(this.#proc, path, O_RDONLY);
    const bytes = this.#list.readOnce(fd, size);
    this.#list.close(fd);
    return bytes;
  }
}

function lacksDetails(answer: Answer | undefined, pid: string): boolean {
  if (answer?.stat === undefined || answer.stat.length === 0 || answer.commandLine !== undefined) return false;
  return (parseFlags(answer.stat, pid) & PF_KTHREAD) === 0;
}

/**
 * A process that was stopped while it changed its own memory map holds the lock that reading its command line takes:
 * the bytes are then read through its page tables, as the kernel would once it had the lock.
 */
async function completeCommandLine(
  shadow: Shadow,
  proc: bigint,
  pid: string,
  { commandLine, blocked }: Answer,
): Promise<Buffer | undefined> {
  if (blocked === true) return readCommandLine(shadow.kernel, Number(pid));
  if (commandLine === undefined || commandLine.length < pageSize) return commandLine;
  const list = new StepList();
  const fd = list.open(proc, `${pid}/cmdline`, O_RDONLY);
  const all = list.readAll(fd, 16 * pageSize, largestCommandLine);
  list.close(fd);
  return bytesOf(await shadow.batch(list.steps), all);
}

function describe({ pid, stat, owner, commandLine }: ProcessSample['processes'][number], bootTime: number): Process {
  const fields = parseStat(stat, pid);
  const kernelThread = (fields.flags & PF_KTHREAD) !== 0;
  return {
    pid: Number(pid),
    ppid: fields.ppid,
    ...(kernelThread ? { uid: 0, gid: 0 } : ownerOf(owner)),
    state: fields.state,
    comm: fields.comm,
    args: splitArguments(commandLine),
    kernelThread,
    startTime: Math.round(bootTime + (fields.startTicks * 1000) / ticksPerSecond),
    rss: fields.rssPages * pageSize,
    vsize: fields.vsize,
    utime: (fields.utimeTicks * 1000) / ticksPerSecond,
    stime: (fields.stimeTicks * 1000) / ticksPerSecond,
    tty: fields.tty,
    pgrp: fields.pgrp,
    session: fields.session,
    priority: fields.priority,
    nice: fields.nice,
    threads: fields.threads,
    processor: fields.processor,
  };
}

/**
 * Effective ids of a process: the owner of its directory, whatever it may be forbidden to dump (fs/proc/base.c,
 * task_dump_owner, makes this exception for the sake of ps).
 */
function ownerOf(status: Buffer | undefined): { uid: number; gid: number } {
  if (status === undefined) return { uid: 0, gid: 0 };
  const { uid, gid } = statType.decode(status);
  return { uid, gid };
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
