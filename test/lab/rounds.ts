import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Guest } from '../../src/index.js';

/** What this process holds of the system's. */
export interface Holdings {
  descriptors: number;
  /** mappings with a name: files, memory shared with others, stacks; those of the heap come and go */
  mappings: number;
  /** resident, in KiB, after a garbage collection */
  residentKiB: number;
}

/** What many stops did to this process. */
export interface Rounds {
  rounds: number;
  retries: number;
  /** after the first 100 rounds, or half of them where there are fewer, and at the end */
  early: Holdings;
  late: Holdings;
}

/** Until then memory that is going to be kept, and machine code of JavaScript, are still being made. */
const SETTLED = 100;
/** JavaScript's heap, and what the C library keeps, differ by so much between two looks. */
const MOST_NOISE_KIB = 4096;

/** What grew after the first rounds; resident memory counts only where those were enough for it to settle. */
export function growth({ rounds, early, late }: Rounds): Partial<Holdings> {
  const isSettled = rounds >= 2 * SETTLED;
  return {
    ...(late.descriptors > early.descriptors && { descriptors: late.descriptors - early.descriptors }),
    ...(late.mappings > early.mappings && { mappings: late.mappings - early.mappings }),
    ...(isSettled &&
      late.residentKiB > early.residentKiB + MOST_NOISE_KIB && { residentKiB: late.residentKiB - early.residentKiB }),
  };
}

/** Stops the guest, looks into it and lets it go, over and over; every tenth time it lists its processes. */
export async function manyRounds(guest: Guest, rounds: number): Promise<Rounds> {
  let early: Holdings | undefined;
  for (let round = 0; round < rounds; round += 1) {
    if (round === Math.min(SETTLED, Math.ceil(rounds / 2))) early = holdings();
    if (round % 10 === 9) await guest.processes();
    else if ((await guest.use((shadow) => shadow.syscall('getpid'))) !== 1n) throw new Error('another process answers');
    await sleep(1);
  }
  const late = holdings();
  return { rounds, retries: guest.counts.retries, early: early ?? late, late };
}

function holdings(): Holdings {
  collectGarbage();
  const resident = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mappings: readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => /[/[]/.test(line) || line.includes('anon_inode')).length,
    residentKiB: Number(resident),
  };
}

let collect: (() => void) | undefined;

export function collectGarbage(): void {
  if (collect === undefined) {
    setFlagsFromString('--expose-gc');
    collect = runInNewContext('gc') as () => void;
  }
  collect();
  collect();
}
