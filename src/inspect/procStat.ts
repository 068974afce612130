import { PenumbraError } from '../errors.js';

/** What penumbra takes from /proc/pid/stat, in its own units (proc(5)). */
export interface StatFields {
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

/** The last field that is needed, by its number in proc(5). */
const lastField = 39;

/**
 * proc(5), /proc/pid/stat. comm may hold anything, parentheses and line ends included; what follows it may not.
 * @throws PenumbraError CORRUPT
 */
export function parseStat(bytes: Buffer, pid: string): StatFields {
  const { comm, words } = divide(bytes, pid);
  if (words.length < lastField - 2) throw malformed(pid);
  const field = (number: number): number => numberAt(words, number, pid);
  return {
    comm,
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
    processor: field(lastField),
  };
}

function divide(bytes: Buffer, pid: string): { comm: Buffer; words: string[] } {
  const open = bytes.indexOf('(');
  const close = bytes.lastIndexOf(')');
  if (open < 0 || close < open) throw malformed(pid);
  return { comm: bytes.subarray(open + 1, close), words: bytes.toString('latin1', close + 2).split(' ') };
}

function numberAt(words: readonly string[], field: number, pid: string): number {
  const number = Number(words[field - 3] || Number.NaN);
  if (!Number.isFinite(number)) {
    throw new PenumbraError('CORRUPT', `field ${field} of /proc/${pid}/stat of the guest is not a number`);
  }
  return number;
}

function malformed(pid: string): PenumbraError {
  return new PenumbraError('CORRUPT', `/proc/${pid}/stat of the guest is malformed`);
}
