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
  /** what JavaScript has in use, in KiB, after a garbage collection */
  heapKiB: number;
  /** resident, in KiB, without what is set aside for JavaScript's heap */
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

/** Until then memory that is going to be kept is still being made. */
const SETTLED = 100;
/** By how much two looks differ without any growth: what is kept of freed memory, and compiled JavaScript, vary. */
const NOISE: Holdings = { descriptors: 0, mappings: 0, heapKiB: 1024, residentKiB: 8192 };

const MEMORY = ['heapKiB', 'residentKiB'] as const;

/** What grew after the first rounds; memory counts only where those were enough for it to settle. */
export function growth({ rounds, early, late }: Rounds): Partial<Holdings> {
  const kinds: (keyof Holdings)[] = ['descriptors', 'mappings', ...(rounds > SETTLED * 2 ? MEMORY : [])];
  const grown = kinds.filter((kind) => late[kind] > early[kind] + NOISE[kind]);
  return Object.fromEntries(grown.map((kind) => [kind, late[kind] - early[kind]]));
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
  const { heapTotal, heapUsed } = process.memoryUsage();
  const resident = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mappings: readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => /[/[]/.test(line) || line.includes('anon_inode')).length,
    heapKiB: Math.round(heapUsed / 1024),
    residentKiB: Math.round(Number(resident) - heapTotal / 1024),
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
