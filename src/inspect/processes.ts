import { GuestError } from '../errors.js';
import { readCommandLine } from '../kernel/commandLine.js';
import { AT_FDCWD, O_DIRECTORY, O_RDONLY } from '../shadow/constants.js';
import { errnoName } from '../shadow/errno.js';
import type { NativeStepResult } from '../shadow/nativeCall.js';
import type { Shadow } from '../shadow/shadow.js';
import { bytesOf, type Operand, out, StepList, type StepReference, value } from '../shadow/stepList.js';
import { decodeDirents } from '../shadow/structs/dirent.js';
import { stat as statType } from '../shadow/structs/file.js';
import type { Question } from './moment.js';
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

/** Which processes there will be, by pid, and how many bytes their command lines have (kernel threads have none). */
export type ProcessGuess = ReadonlyMap<string, number | undefined>;

/**
 * All processes that the borrowed task can see in /proc, by pid, as the guest's kernel describes them.
 *
 * @throws GuestError when /proc is not there; CallError when a call does not return; PenumbraError CORRUPT when /proc
 *   holds something else than proc(5) describes
 */
export async function listProcesses(shadow: Shadow): Promise<Process[]> {
  return describeProcesses(await sampleProcesses(shadow, new Map()));
}

/** Asks for what `guess` names and for nothing else. The answer is undefined when there was more to be asked. */
export function foreseenProcesses(guess: ProcessGuess): Question<ProcessSample | undefined> {
  return (list) => {
    const first = new FirstQuestions(list, guess);
    return (results) => {
      const found = first.read(results);
      return found.pids.every((pid) => isAnswered(found.answers.get(pid), pid)) ? sampleOf(found) : undefined;
    };
  };
}

/**
 * Reads what `describeProcesses` needs. What `guess` names is asked for with the first batch of calls, what it does not
 * foresee with further ones: a good guess shortens the time for which the guest stands still, a bad one does no harm.
 */
export async function sampleProcesses(shadow: Shadow, guess: ProcessGuess): Promise<ProcessSample> {
  const list = new StepList();
  const first = new FirstQuestions(list, guess);
  const found = first.read(await shadow.batch(list.steps, { mayBlock: true }));
  const { fd, pids, answers } = found;
  const unforeseen = new Questions(new StepList(), fd);
  for (const pid of pids) if (!answers.has(pid)) unforeseen.ask(pid, undefined);
  await unforeseen.askAll(shadow, answers);
  const details = new Questions(new StepList(), fd);
  for (const pid of pids) if (lacksDetails(answers.get(pid), pid)) details.askDetails(pid, 0);
  await details.askAll(shadow, answers);
  for (const pid of pids) await completeCommandLine(shadow, fd, pid, answers.get(pid));
  return sampleOf(found);
}

/** The processes of a sample, by pid. @throws PenumbraError CORRUPT */
export function describeProcesses({ realtime, boottime, processes }: ProcessSample): Process[] {
  const bootTime = milliseconds(realtime) - milliseconds(boottime);
  return processes.map((sampled) => describe(sampled, bootTime)).sort((a, b) => a.pid - b.pid);
}

/** What the next sample will probably find. */
export function guessFrom(processes: readonly Process[]): ProcessGuess {
  return new Map(
    processes.map(({ pid, kernelThread, args }) => [String(pid), kernelThread ? undefined : lengthOf(args)]),
  );
}

/** Whether `guess` would have foreseen all of these processes. */
export function foresaw(guess: ProcessGuess, processes: readonly Process[]): boolean {
  return processes.every(({ pid, kernelThread, args }) => {
    const length = guess.get(String(pid));
    if (length === undefined) return guess.has(String(pid)) && kernelThread;
    return length >= pageSize || lengthOf(args) < pageSize;
  });
}

interface Answer {
  stat?: Buffer | undefined;
  owner?: Buffer | undefined;
  commandLine?: Buffer | undefined;
  /** `commandLine` may go on */
  cut?: boolean;
  /** the command line could not be read because the process holds a lock of its memory */
  blocked?: boolean;
}

/** What a first batch found: the processes that there are, and answers about those that were foreseen. */
interface Found {
  /** of /proc, open in the shadow */
  fd: bigint;
  pids: string[];
  answers: Map<string, Answer>;
  realtime: Buffer | undefined;
  boottime: Buffer | undefined;
}

class FirstQuestions {
  readonly #proc: StepReference;
  readonly #names: number;
  readonly #realtime: number;
  readonly #boottime: number;
  readonly #asked: Questions;

  constructor(list: StepList, guess: ProcessGuess) {
    this.#proc = list.open(AT_FDCWD, '/proc', O_RDONLY | O_DIRECTORY);
    this.#names = list.readDirectory(this.#proc, largestListing);
    this.#realtime = list.add('clock_gettime', value(clockRealtime), out(16));
    this.#boottime = list.add('clock_gettime', value(clockBoottime), out(16));
    this.#asked = new Questions(list, this.#proc);
    for (const [pid, commandLine] of guess) this.#asked.ask(pid, commandLine);
  }

  /** @throws GuestError when there is no /proc */
  read(results: readonly NativeStepResult[]): Found {
    requireSuccess(results, this.#proc.step, 'openat');
    requireSuccess(results, this.#names, 'getdents64');
    return {
      fd: (results[this.#proc.step] as NativeStepResult).value,
      pids: decodeDirents(bytesOf(results, this.#names) as Buffer)
        .map((entry) => entry.name.toString('latin1'))
        .filter((name) => /^[1-9]\d{0,9}$/.test(name)),
      answers: this.#asked.read(results),
      realtime: bytesOf(results, this.#realtime),
      boottime: bytesOf(results, this.#boottime),
    };
  }
}

/** What is asked of single processes in one batch. */
class Questions {
  readonly #list: StepList;
  readonly #proc: Operand;
  readonly #stats = new Map<string, number>();
  readonly #details = new Map<string, { owner: number; commandLine: number; whole: boolean }>();

  constructor(list: StepList, proc: Operand) {
    this.#list = list;
    this.#proc = proc;
  }

  /** @param commandLine bytes that it probably has; undefined for a kernel thread */
  ask(pid: string, commandLine: number | undefined): void {
    this.#stats.set(pid, this.#readSmallFile(`${pid}/stat`, statSize));
    if (commandLine !== undefined) this.askDetails(pid, commandLine);
  }

  /** What only processes with a memory of their own have; kernel threads have no command line and run as root. */
  askDetails(pid: string, commandLine: number): void {
    const owner = this.#list.stat(this.#proc, pid, 0);
    const whole = commandLine >= pageSize;
    const path = `${pid}/cmdline`;
    this.#details.set(pid, {
      owner,
      commandLine: whole ? readCommandLineFile(this.#list, this.#proc, path) : this.#readSmallFile(path, pageSize),
      whole,
    });
  }

  async askAll(shadow: Shadow, answers: Map<string, Answer>): Promise<void> {
    if (this.#list.steps.length === 0) return;
    const results = await shadow.batch(this.#list.steps, { mayBlock: true });
    for (const [pid, answer] of this.read(results)) answers.set(pid, { ...answers.get(pid), ...answer });
  }

  read(results: readonly NativeStepResult[]): Map<string, Answer> {
    const answers = new Map<string, Answer>();
    for (const [pid, step] of this.#stats) answers.set(pid, { stat: bytesOf(results, step) });
    for (const [pid, { owner, commandLine, whole }] of this.#details) {
      const bytes = bytesOf(results, commandLine) ?? Buffer.alloc(0);
      answers.set(pid, {
        ...answers.get(pid),
        owner: bytesOf(results, owner, 2),
        commandLine: bytes,
        cut: !whole && bytes.length >= pageSize,
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

/** All of a command line, however long it is. */
function readCommandLineFile(list: StepList, proc: Operand, path: string): number {
  const fd = list.open(proc, path, O_RDONLY);
  const bytes = list.readAll(fd, 16 * pageSize, largestCommandLine);
  list.close(fd);
  return bytes;
}

/** A process that is being reaped at this instant is listed and yet gone: ps leaves it out as well. */
function isGone({ stat }: Answer): boolean {
  return stat === undefined || stat.length === 0;
}

function isAnswered(answer: Answer | undefined, pid: string): boolean {
  if (answer === undefined) return false;
  return isGone(answer) || (!lacksDetails(answer, pid) && answer.cut !== true && answer.blocked !== true);
}

function lacksDetails(answer: Answer | undefined, pid: string): boolean {
  if (answer?.stat === undefined || isGone(answer) || answer.commandLine !== undefined) return false;
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
  answer: Answer | undefined,
): Promise<void> {
  if (answer?.blocked === true) answer.commandLine = readCommandLine(shadow.kernel, Number(pid));
  if (answer?.cut !== true) return;
  const list = new StepList();
  const all = readCommandLineFile(list, proc, `${pid}/cmdline`);
  answer.commandLine = bytesOf(await shadow.batch(list.steps), all);
}

function sampleOf({ pids, answers, realtime, boottime }: Found): ProcessSample {
  const processes: ProcessSample['processes'] = [];
  for (const pid of pids) {
    const { stat, owner, commandLine } = answers.get(pid) ?? {};
    if (stat !== undefined && stat.length > 0) processes.push({ pid, stat, owner, commandLine });
  }
  return { realtime, boottime, processes };
}

function lengthOf(args: readonly Buffer[]): number {
  return args.reduce((length, arg) => length + arg.length + 1, 0);
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
