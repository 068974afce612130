import { GuestError } from '../errors.js';
import { readCommandLine } from '../kernel/commandLine.js';
import { AT_FDCWD, O_DIRECTORY, O_RDONLY } from '../shadow/constants.js';
import { errnoName } from '../shadow/errno.js';
import type { NativeStepResult } from '../shadow/nativeCall.js';
import type { Shadow } from '../shadow/shadow.js';
import { bytesOf, type Operand, StepList } from '../shadow/stepList.js';
import { decodeDirents } from '../shadow/structs/dirent.js';
import { stat as statType } from '../shadow/structs/file.js';
import { addClocks } from './clocks.js';
import { PF_KTHREAD, type ProcessSample, pageSize } from './processes.js';
import { parseStat, type StatFields } from './procStat.js';

/** The kernel's own limit is 4 million processes (PID_MAX_LIMIT); a listing of that many names is about 100 MB. */
const largestListing = 128 << 20;
const statSize = 1024;
const largestCommandLine = 2 << 20;

/**
 * What /proc says of all processes, by system calls alone, as ps(1) asks them. It goes by what the borrowed task can see
 * there: the /proc of its namespaces, less what that one hides.
 *
 * @throws GuestError when /proc is not there; CallError when a call does not return; PenumbraError CORRUPT
 */
export async function sampleProcessFiles(shadow: Shadow): Promise<ProcessSample> {
  const { fd, pids, clocks } = await listNames(shadow);
  const answers = await askForStats(shadow, fd, pids);
  await askForDetails(shadow, fd, answers);
  for (const [pid, answer] of answers) await completeCommandLine(shadow, fd, pid, answer);
  return {
    ...clocks,
    processes: [...answers].map(([pid, { stat, owner, commandLine }]) => ({
      pid: Number(pid),
      stat,
      owner: owner && ownerOf(owner),
      commandLine,
    })),
  };
}

interface Answer {
  stat: StatFields;
  /** struct stat of the process's directory */
  owner?: Buffer | undefined;
  commandLine?: Buffer | undefined;
  /** the command line could not be read because the process holds a lock of its memory */
  blocked?: boolean;
}

async function listNames(shadow: Shadow) {
  const list = new StepList();
  const proc = list.open(AT_FDCWD, '/proc', O_RDONLY | O_DIRECTORY);
  const names = list.readDirectory(proc, largestListing);
  const readClocks = addClocks(list);
  const results = await shadow.batch(list.steps);
  requireSuccess(results, proc.step, 'openat');
  requireSuccess(results, names, 'getdents64');
  return {
    fd: (results[proc.step] as NativeStepResult).value,
    pids: decodeDirents(bytesOf(results, names) as Buffer)
      .map((entry) => entry.name.toString('latin1'))
      .filter((name) => /^[1-9]\d{0,9}$/.test(name)),
    clocks: readClocks(results),
  };
}

/** A process that is being reaped at this instant is listed and yet gone: ps leaves it out as well. */
async function askForStats(shadow: Shadow, proc: bigint, pids: readonly string[]): Promise<Map<string, Answer>> {
  const list = new StepList();
  const steps = pids.map((pid) => readSmallFile(list, proc, `${pid}/stat`, statSize));
  const results = await shadow.batch(list.steps, { mayBlock: true });
  const answers = new Map<string, Answer>();
  pids.forEach((pid, index) => {
    const stat = bytesOf(results, steps[index] as number);
    if (stat !== undefined && stat.length > 0) answers.set(pid, { stat: parseStat(stat, pid) });
  });
  return answers;
}

/** What only processes with a memory of their own have; kernel threads have no command line and run as root. */
async function askForDetails(shadow: Shadow, proc: bigint, answers: ReadonlyMap<string, Answer>): Promise<void> {
  const list = new StepList();
  const asked = [...answers]
    .filter(([, { stat }]) => (stat.flags & PF_KTHREAD) === 0)
    .map(([pid, answer]) => ({
      answer,
      owner: list.stat(proc, pid, 0),
      commandLine: readSmallFile(list, proc, `${pid}/cmdline`, pageSize),
    }));
  const results = await shadow.batch(list.steps, { mayBlock: true });
  for (const { answer, owner, commandLine } of asked) {
    answer.owner = bytesOf(results, owner, 2);
    answer.commandLine = bytesOf(results, commandLine) ?? Buffer.alloc(0);
    answer.blocked = results[commandLine]?.blocked === true;
  }
}

/**
 * A process that was stopped while it changed its own memory map holds the lock that reading its command line takes:
 * the bytes are then read through its page tables, as the kernel would once it had the lock.
 */
async function completeCommandLine(shadow: Shadow, proc: bigint, pid: string, answer: Answer): Promise<void> {
  if (answer.blocked === true) {
    answer.commandLine = readCommandLine(shadow.kernel, Number(pid));
  } else if (answer.commandLine !== undefined && answer.commandLine.length >= pageSize) {
    const list = new StepList();
    const fd = list.open(proc, `${pid}/cmdline`, O_RDONLY);
    const all = list.readAll(fd, 16 * pageSize, largestCommandLine);
    list.close(fd);
    answer.commandLine = bytesOf(await shadow.batch(list.steps), all);
  }
}

/** A file that the kernel gives in one piece. */
function readSmallFile(list: StepList, proc: Operand, path: string, size: number): number {
  const fd = list.open(proc, path, O_RDONLY);
  const bytes = list.readOnce(fd, size);
  list.close(fd);
  return bytes;
}

/**
 * Effective ids of a process: the owner of its directory, whatever it may be forbidden to dump (fs/proc/base.c,
 * task_dump_owner, makes this exception for the sake of ps).
 */
function ownerOf(status: Buffer): { uid: number; gid: number } {
  const { uid, gid } = statType.decode(status);
  return { uid, gid };
}

function requireSuccess(results: readonly NativeStepResult[], step: number, syscall: string): void {
  const { value: answer } = results[step] as NativeStepResult;
  if (answer < 0n) throw new GuestError(errnoName(Number(-answer)), syscall, '/proc');
}
