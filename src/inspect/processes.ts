import type { StatFields } from './procStat.js';
import type { Process } from './records.js';

/** USER_HZ, which the kernel's interfaces to programs count in on x86 whatever its own HZ is. */
const ticksPerSecond = 100;
export const pageSize = 4096;
/** include/linux/sched.h */
export const PF_KTHREAD = 0x200000;

/** One process as the guest's kernel describes it. */
export interface SampledProcess {
  pid: number;
  /** what /proc/pid/stat tells */
  stat: StatFields;
  /** effective ids; kernel threads have none of their own */
  owner: { uid: number; gid: number } | undefined;
  /** /proc/pid/cmdline, where there is one */
  commandLine: Buffer | undefined;
}

/** What the guest said of its processes, as it said it. Taken while it stands still, to be read when it runs again. */
export interface ProcessSample {
  /** struct timespec of clock_gettime(2) */
  realtime: Buffer | undefined;
  boottime: Buffer | undefined;
  processes: SampledProcess[];
}

/** The processes of a sample, by pid. */
export function describeProcesses({ realtime, boottime, processes }: ProcessSample): Process[] {
  const bootTime = milliseconds(realtime) - milliseconds(boottime);
  return processes.map((sampled) => describe(sampled, bootTime)).sort((a, b) => a.pid - b.pid);
}

function describe({ pid, stat, owner, commandLine }: SampledProcess, bootTime: number): Process {
  const kernelThread = (stat.flags & PF_KTHREAD) !== 0;
  return {
    pid,
    ppid: stat.ppid,
    ...(kernelThread || owner === undefined ? { uid: 0, gid: 0 } : owner),
    state: stat.state,
    comm: stat.comm,
    args: splitArguments(commandLine),
    kernelThread,
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
