import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Guest } from '../../src/index.js';
import type { LabGuest } from '../../src/lab/index.js';
import { afterPause } from '../pause.js';
import type { Report } from '../report.js';
import { repeat, type Summary, summarise } from '../statistics.js';

const command = fileURLToPath(new URL('../../../bin/penumbra', import.meta.url));
const run = promisify(execFile);

/** A complete process list in a session, against the guest's own. */
export async function measureSession(lab: LabGuest, guest: Guest, report: Report, rounds: number): Promise<void> {
  const count = (await guest.processes()).length;
  report.suite(`ps of ${count} processes in a session`);
  const samples = await repeat(rounds, async () => {
    await afterPause(() => guest.processes());
    return guest.counts.lastStandstill;
  });
  const standstill = summarise(samples);
  report.add('standstill, stop to resume', 'ms', standstill, { kvm: 3 });
  const scaled = {
    ...standstill,
    median: (standstill.median * 50) / count,
    minimum: (standstill.minimum * 50) / count,
  };
  report.add('the same per 50 processes', 'ms', scaled, 4);
  const native = await measureNative(lab, Math.max(3, Math.round(rounds / 10)));
  report.add('ps in the guest', 'ms', native);
  report.ratio('standstill / ps in the guest', standstill, native, { kvm: 1 });
  const before = await guest.statistics();
  await guest.processes();
  const after = await guest.statistics();
  const exits = after.exits - before.exits;
  if (exits > 0) report.add('exits from guest code', 'count', { median: exits, minimum: exits, rounds: 1 });
  report.add('pages copied', 'count', { median: after.privatePages, minimum: after.privatePages, rounds: 1 });
}

/** `ps` in the guest itself, its fork and exec included; many at once, so that the console's share does not count. */
export async function measureNative(lab: LabGuest, rounds: number): Promise<Summary> {
  const times = 20;
  const samples = await repeat(rounds, async () => {
    const begin = performance.now();
    await lab.run(`i=0; while [ $i -lt ${times} ]; do ps > /dev/null; i=$((i + 1)); done`);
    return (performance.now() - begin) / times;
  });
  return summarise(samples);
}

/** Whole commands, each in a process of its own. The guest must not be attached. */
export async function measureCommands(lab: LabGuest, report: Report, rounds: number): Promise<void> {
  report.suite('penumbra ps, a fresh process each time');
  const cache = await mkdtemp(join(tmpdir(), 'penumbra-bench-'));
  try {
    const once = async (folder: string) => {
      const begin = performance.now();
      const { stderr } = await run(command, ['ps', '--qmp', lab.qmp, '--verbose', '--json'], {
        env: { ...process.env, XDG_CACHE_HOME: folder },
        maxBuffer: 1 << 24,
      });
      const wall = performance.now() - begin;
      return { wall, standstill: Number(/([\d.]+) ms in all/.exec(stderr)?.[1]) };
    };
    const cold = await repeat(Math.max(3, Math.round(rounds / 10)), async (index) =>
      once(join(cache, `cold-${index}`)),
    );
    const warm = await repeat(rounds, async () => once(join(cache, 'cold-0')));
    report.add('wall time, first contact with the kernel', 'ms', summarise(cold.map(({ wall }) => wall)), 800);
    report.add('wall time, known kernel', 'ms', summarise(warm.map(({ wall }) => wall)), 250);
    report.add('standstill, stop to resume', 'ms', summarise(warm.map(({ standstill }) => standstill)), 8);
  } finally {
    await rm(cache, { recursive: true });
  }
}
