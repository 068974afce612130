import { PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import { AT_FDCWD, O_RDONLY } from '../shadow/constants.js';
import { NativeArgumentKind, type NativeStepResult } from '../shadow/nativeCall.js';
import { bytesOf, out, type StepList, type StepReference, value } from '../shadow/stepList.js';
import { addClocks } from './clocks.js';
import type { Question } from './moment.js';
import { PF_KTHREAD, type ProcessSample, type SampledProcess } from './processes.js';

/** native/inshadow/process_walk.h: struct process_walk, struct process_record. */
const walkSize = 80;
const firstWord = 40;
const headerSize = 24;
const program = 0;
/** What one process may need, PROCESS_WALK_ROOM. */
export const roomForOne = (2 << 20) + 2048;
const roomForMany = 3 * roomForOne;
const largestListing = 128 << 20;

/** What the program is told, and functions that the steps around it call. */
export interface ProcessWalk {
  told: Buffer;
  fget: bigint;
  fput: bigint;
}

/** Functions of fs/file_table.c, fs/read_write.c, fs/proc/base.c and kernel/pid.c, and how many arguments they take. */
const functions = { find_ge_pid: 2, pid_task: 2, vfs_read: 4, task_dump_owner: 4, fget: 1, fput: 1 } as const;

/**
 * How native/inshadow/process_walk.c lists the processes of this kernel; undefined where it lacks something of that.
 * It sees the processes of the initial namespace, whatever a /proc may hide.
 */
export function processWalk(kernel: Kernel): ProcessWalk | undefined {
  const found = Object.entries(functions).map(([name, count]) => functionOf(kernel, name, count));
  const namespace = kernel.symbol('init_pid_ns');
  const type = kernel.enumerator('PIDTYPE_TGID'); // 4.19
  const pidOfInode = kernel.offsetof('proc_inode.pid');
  const inode = kernel.offsetof('proc_inode.vfs_inode');
  const words = [
    kernel.offsetof('pid.numbers'), // of which the first is the initial namespace's; begins with the number
    kernel.offsetof('task_struct.flags'),
    kernel.offsetof('task_struct.mm'),
    kernel.offsetof('file.f_inode'),
    pidOfInode === undefined || inode === undefined ? undefined : pidOfInode - inode,
    kernel.offsetof('inode.i_sb'),
    kernel.offsetof('super_block.s_magic'),
    type === undefined ? undefined : Number(type),
    PF_KTHREAD,
    1,
  ];
  if (![...found, namespace].every(isDefined) || !words.every(isDefined)) return undefined;
  const [find, task, read, owner, fget, fput] = found as [bigint, bigint, bigint, bigint, bigint, bigint];
  const told = Buffer.alloc(walkSize);
  for (const [index, address] of [find, task, read, owner, namespace as bigint].entries()) {
    told.writeBigUInt64LE(address, index * 8);
  }
  for (const [index, word] of (words as number[]).entries()) told.writeInt32LE(word, firstWord + index * 4);
  return { told, fget, fput };
}

/**
 * Asks for all processes with one step. The answer is undefined when it is not complete: there is no /proc, or a process
 * holds a lock that its command line is behind.
 * @param room bytes that the program fills before it hands them over; not less than roomForOne
 */
export function walkQuestion(walk: ProcessWalk, room = roomForMany): Question<ProcessSample | undefined> {
  return (list) => {
    const fds = ['stat', 'cmdline'].map((name) => list.open(AT_FDCWD, `/proc/1/${name}`, O_RDONLY));
    const files = fds.map((fd) => addCall(list, walk.fget, fd));
    const records = addWalk(list, walk, files, room);
    for (const file of files) addCall(list, walk.fput, file);
    for (const fd of fds) list.close(fd);
    const readClocks = addClocks(list);
    return (results) => {
      const { value: length, blocked } = results[records] as NativeStepResult;
      if (length < 0n || blocked === true) return undefined;
      return { ...readClocks(results), processes: decodeRecords(bytesOf(results, records, 3) ?? Buffer.alloc(0)) };
    };
  };
}

/** @throws PenumbraError CORRUPT */
export function decodeRecords(bytes: Buffer): SampledProcess[] {
  const processes: SampledProcess[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < headerSize) throw malformed();
    const [pid, statLength, commandLength, uid, gid] = [0, 4, 8, 12, 16].map((word) =>
      bytes.readUInt32LE(at + word),
    ) as [number, number, number, number, number];
    const stat = at + headerSize;
    const commandLine = stat + statLength;
    const end = commandLine + commandLength;
    if (end > bytes.length) throw malformed();
    processes.push({
      pid,
      stat: bytes.subarray(stat, commandLine),
      owner: { uid, gid },
      commandLine: bytes.subarray(commandLine, end),
    });
    at = (end + 7) & ~7;
  }
  return processes;
}

function addCall(list: StepList, address: bigint, argument: StepReference): StepReference {
  list.steps.push({ kind: 'function', nr: address, args: [value(argument)] });
  return { step: list.steps.length - 1 };
}

function addWalk(list: StepList, walk: ProcessWalk, files: readonly StepReference[], room: number): number {
  const told = { kind: NativeArgumentKind.in, bytes: walk.told };
  const records = { ...out(room), lengthIsResult: true };
  const args = [told, ...files.map(value), records, value(room)];
  list.steps.push({ kind: 'program', nr: program, args, repeatUntil: largestListing });
  return list.steps.length - 1;
}

/** The function of that name, unless BTF says that it takes other arguments. (5.10 does not describe all of them.) */
function functionOf(kernel: Kernel, name: string, count: number): bigint | undefined {
  const parameters = kernel.parameters(name);
  return parameters === undefined || parameters.length === count ? kernel.symbol(name) : undefined;
}

function isDefined<Value>(value: Value | undefined): value is Value {
  return value !== undefined;
}

function malformed(): PenumbraError {
  return new PenumbraError('CORRUPT', "the shadow's list of processes is malformed");
}
