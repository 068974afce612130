import type { TestGuest } from './driver.js';

/** A process as its own guest's /proc describes it. */
export interface SelfView {
  /** clock ticks since boot: with the pid it names a process */
  start: number;
  exact: Map<string, string>;
  /**
   * in user mode and in the kernel, ms. Only the sum is measured and never shrinks; the kernel estimates the parts anew
   * each time somebody asks (kernel/sched/cputime.c, cputime_adjust)
   */
  processorTime: number;
}

/** Where proc(5) has them in /proc/PID/stat, counted from 1. */
const STAT = {
  state: 3,
  ppid: 4,
  pgrp: 5,
  session: 6,
  tty: 7,
  priority: 18,
  nice: 19,
  threads: 20,
  vsize: 23,
  processor: 39,
};
const [UTIME, STIME, START, RSS] = [14, 15, 22, 24];
const PAGE = 4096;
/** USER_HZ is 100 */
const TICK_MS = 10;
const HEADER = /(?:^|\n)==> \/proc\/(\d+)\/(stat|status|cmdline) <==\n/;

/** All processes by pid, read in the guest by one program. What ended meanwhile is left out. */
export async function processesBySelf(guest: TestGuest): Promise<Map<number, SelfView>> {
  const files = ['stat', 'status', 'cmdline'].map((name) => `/proc/[0-9]*/${name}`).join(' ');
  const { stdout } = await guest.run(`head -c 4096 ${files} 2> /dev/null`);
  const parts = stdout.toString('latin1').split(HEADER);
  const contents = new Map<number, Map<string, string>>();
  for (let at = 1; at + 2 < parts.length; at += 3) {
    const pid = Number(parts[at]);
    const files = contents.get(pid) ?? new Map<string, string>();
    contents.set(pid, files.set(parts[at + 1] as string, parts[at + 2] as string));
  }
  const views = new Map<number, SelfView>();
  for (const [pid, files] of contents) {
    const [stat, status, cmdline] = [files.get('stat'), files.get('status'), files.get('cmdline')];
    if (stat && status && cmdline !== undefined) views.set(pid, view(stat, status, cmdline));
  }
  return views;
}

function view(stat: string, status: string, cmdline: string): SelfView {
  const end = stat.lastIndexOf(')');
  const words = stat
    .slice(end + 2)
    .trim()
    .split(' ');
  const word = (number: number): string => words[number - 3] as string;
  const effective = (name: string): string => new RegExp(`^${name}:\\t\\d+\\t(\\d+)`, 'm').exec(status)?.[1] ?? '';
  return {
    start: Number(word(START)),
    exact: new Map([
      ...Object.entries(STAT).map(([name, number]) => [name, word(number)] as const),
      ['comm', stat.slice(stat.indexOf('(') + 1, end)],
      ['rss', String(Number(word(RSS)) * PAGE)],
      ['uid', effective('Uid')],
      ['gid', effective('Gid')],
      ['args', cmdline.replace(/\0$/, '')],
    ]),
    processorTime: (Number(word(UTIME)) + Number(word(STIME))) * TICK_MS,
  };
}
