import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Guest } from '../../src/index.js';
import type { LabGuest } from '../../src/lab/index.js';
import type { Report } from '../report.js';
import { repeat, summarise } from '../statistics.js';

const command = fileURLToPath(new URL('../../../bin/penumbra', import.meta.url));
const run = promisify(execFile);

/** A complete process list in a session. */
export async function measureSession(guest: Guest, report: Report, rounds: number): Promise<void> {
  const count = (await guest.processes()).length;
  report.suite(`ps of ${count} processes in a session`);
  const samples = await repeat(rounds, async () => {
    await guest.processes();
    return guest.counts.lastStandstill;
  });
  const standstill = summarise(samples);
  report.add('standstill, stop to resume', 'ms', standstill);
  const scaled = {
    ...standstill,
    median: (standstill.median * 50) / count,
    minimum: (standstill.minimum * 50) / count,
  };
  report.add('the same per 50 processes', 'ms', scaled, 4);
  const pages = (await guest.statistics()).privatePages;
  report.add('pages copied', 'count', { median: pages, minimum: pages, rounds: 1 });
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
    const cold = await repeat(Math.max(10, rounds / 10), async (index) => once(join(cache, `cold-${index}`)));
    const warm = await repeat(rounds, async () => once(join(cache, 'cold-0')));
    report.add('wall time, first contact with the kernel', 'ms', summarise(cold.map(({ wall }) => wall)), 800);
    report.add('wall time, known kernel', 'ms', summarise(warm.map(({ wall }) => wall)), 250);
    report.add('standstill, stop to resume', 'ms', summarise(warm.map(({ standstill }) => standstill)), 8);
    const native = await repeat(Math.max(10, rounds / 10), async () => {
      const begin = performance.now();
      await lab.run('ps > /dev/null');
      return performance.now() - begin;
    });
    report.add('ps in the guest, by its console', 'ms', summarise(native));
  } finally {
    await rm(cache, { recursive: true });
  }
}
