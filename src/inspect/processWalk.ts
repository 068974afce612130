import { PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import { stateLetter } from '../kernel/taskState.js';
import { NativeArgumentKind, type NativeStepResult } from '../shadow/nativeCall.js';
import { bytesOf, out, type StepList, value } from '../shadow/stepList.js';
import { addClocks } from './clocks.js';
import type { Question } from './moment.js';
import { PF_KTHREAD, type ProcessSample, pageSize, type SampledProcess } from './processes.js';

/** native/inshadow/process_walk.h: struct process_walk, struct process_record. */
const walkSize = 192;
const firstWord = 72;
const headerSize = 104;
const largestFile = 512;
const program = 0;
/** What one process may need, PROCESS_WALK_ROOM. */
export const roomForOne = (2 << 20) + 1024;
const roomForMany = 3 * roomForOne;
const largestListing = 128 << 20;

/** include/linux/sched.h */
const PF_WQ_WORKER = 0x20;
/** include/linux/sched/prio.h: MAX_RT_PRIO, DEFAULT_PRIO */
const firstOrdinaryPriority = 100;
const priorityOfNiceZero = 120;
/** Nanoseconds of a clock tick as programs see it (USER_HZ). */
const tick = 10_000_000n;

/** What the program is told. */
export type ProcessWalk = Buffer;

/**
 * Functions of kernel/pid.c, kernel/sched/cputime.c, fs/proc/ and drivers/tty/tty_io.c in the program's order, and how
 * many arguments they take.
 */
const functions = {
  find_ge_pid: 2,
  pid_task: 2,
  __task_pid_nr_ns: 3,
  thread_group_cputime_adjusted: 3,
  proc_task_name: 3,
  tty_devnum: 1,
  task_dump_owner: 4,
  proc_pid_cmdline_read: 4,
} as const;

/**
 * How native/inshadow/process_walk.c lists the processes of this kernel; undefined where it lacks something of that.
 * It sees the processes of the initial namespace, whatever a /proc may hide.
 */
export function processWalk(kernel: Kernel): ProcessWalk | undefined {
  const addresses = [
    ...Object.entries(functions).map(([name, count]) => functionOf(kernel, name, count)),
    kernel.symbol('init_pid_ns'),
  ];
  const words = [...memberOffsets(kernel), ...pidTypes(kernel), PF_KTHREAD, PF_WQ_WORKER, 1];
  if (!addresses.every(isDefined) || !words.every(isDefined)) return undefined;
  const sizes = ['file', 'seq_file'].map((type) => kernel.sizeof(type) ?? Number.POSITIVE_INFINITY);
  if (Math.max(...sizes) > largestFile) return undefined;
  const told = Buffer.alloc(walkSize);
  for (const [index, address] of addresses.entries()) told.writeBigUInt64LE(address, index * 8);
  for (const [index, word] of words.entries()) told.writeInt32LE(word, firstWord + index * 4);
  return told;
}

/** In the order of struct process_walk; members whose name has changed, newest form first as in kernel/tasks.ts. */
function memberOffsets(kernel: Kernel): (number | undefined)[] {
  const at = (...paths: string[]) => paths.map((path) => kernel.offsetof(path)).find(isDefined);
  const pidOfInode = at('proc_inode.pid');
  const inode = at('proc_inode.vfs_inode');
  return [
    at('pid.numbers'), // of which the first is the initial namespace's; begins with the number
    at('task_struct.flags'),
    at('task_struct.mm'),
    at('task_struct.__state', 'task_struct.state'),
    at('task_struct.exit_state'),
    at('task_struct.prio'),
    at('task_struct.static_prio'),
    at('task_struct.thread_info.cpu', 'task_struct.cpu'),
    at('task_struct.start_boottime', 'task_struct.real_start_time'),
    at('task_struct.real_parent'),
    at('task_struct.signal'),
    at('task_struct.comm'),
    at('signal_struct.tty'),
    at('signal_struct.nr_threads'),
    at('mm_struct.total_vm'),
    ...['MM_FILEPAGES', 'MM_ANONPAGES', 'MM_SHMEMPAGES'].map((name) => {
      const index = kernel.enumerator(name);
      if (index === undefined) return undefined;
      // 6.2, f1a7941243c1: a percpu_counter each
      return at(`mm_struct.rss_stat[${index}].count`, `mm_struct.rss_stat.count[${index}]`);
    }),
    at('file.f_inode'),
    pidOfInode === undefined || inode === undefined ? undefined : pidOfInode - inode,
    at('seq_file.buf'),
    at('seq_file.size'),
    at('seq_file.count'),
  ];
}

/** PIDTYPE_TGID is there since 4.19. */
function pidTypes(kernel: Kernel): (number | undefined)[] {
  return ['PIDTYPE_PID', 'PIDTYPE_TGID', 'PIDTYPE_PGID', 'PIDTYPE_SID'].map((name) => {
    const type = kernel.enumerator(name);
    return type === undefined ? undefined : Number(type);
  });
}

/**
 * Asks for all processes with one step. The answer is undefined when it is not complete: a process holds a lock that its
 * command line is behind.
 * @param room bytes that the program fills before it hands them over; not less than roomForOne
 */
export function walkQuestion(walk: ProcessWalk, room = roomForMany): Question<ProcessSample | undefined> {
  return (list) => {
    const records = addWalk(list, walk, room);
    const readClocks = addClocks(list);
    return (results) => {
      const { value: length, blocked } = results[records] as NativeStepResult;
      if (length < 0n || blocked === true) return undefined;
      return { ...readClocks(results), processes: decodeRecords(bytesOf(results, records, 1) ?? Buffer.alloc(0)) };
    };
  };
}

/** @throws PenumbraError CORRUPT */
export function decodeRecords(bytes: Buffer): SampledProcess[] {
  const processes: SampledProcess[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < headerSize) throw malformed();
    const record = bytes.subarray(at);
    const name = headerSize;
    const commandLine = name + record.readUInt32LE(56);
    const end = commandLine + record.readUInt32LE(60);
    if (end > record.length) throw malformed();
    processes.push(decodeRecord(record, record.subarray(name, commandLine), record.subarray(commandLine, end)));
    at += (end + 7) & ~7;
  }
  return processes;
}

/** In the units of /proc/PID/stat. */
function decodeRecord(record: Buffer, comm: Buffer, commandLine: Buffer): SampledProcess {
  const word = (index: number) => record.readInt32LE(index * 4);
  const long = (index: number) => record.readBigUInt64LE(64 + index * 8);
  const ticks = (index: number) => Number(long(index) / tick);
  return {
    pid: word(0),
    stat: {
      comm,
      state: stateLetter(word(7), word(8)),
      ppid: word(1),
      pgrp: word(2),
      session: word(3),
      tty: encodeDevice(record.readUInt32LE(13 * 4)),
      flags: record.readUInt32LE(6 * 4),
      utimeTicks: ticks(0),
      stimeTicks: ticks(1),
      priority: word(9) - firstOrdinaryPriority,
      nice: word(10) - priorityOfNiceZero,
      threads: word(11),
      startTicks: ticks(2),
      vsize: Number(long(3)) * pageSize,
      rssPages: Number(long(4)),
      processor: word(12),
    },
    owner: { uid: record.readUInt32LE(16), gid: record.readUInt32LE(20) },
    commandLine,
  };
}

/** include/linux/kdev_t.h: new_encode_dev() of a number with 20 bits of minor. */
function encodeDevice(device: number): number {
  const major = device >>> 20;
  const minor = device & 0xfffff;
  return (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12);
}

function addWalk(list: StepList, walk: ProcessWalk, room: number): number {
  const told = { kind: NativeArgumentKind.in, bytes: walk };
  const records = { ...out(room), lengthIsResult: true };
  list.steps.push({ kind: 'program', nr: program, args: [told, records, value(room)], repeatUntil: largestListing });
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
