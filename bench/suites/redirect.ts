import { closeSync, openSync } from 'node:fs';
import { attach, type Guest } from '../../src/index.js';
import { toolFiles } from '../../src/lab/hostTools.js';
import { LabGuest, type LabSpec } from '../../src/lab/index.js';
import type { RunResult } from '../../src/redirect/run.js';
import type { Report } from '../report.js';
import { repeat, summarise } from '../statistics.js';

/** Command lines and what their ratio to the same tool inside the guest may be. */
const COMMANDS: readonly (readonly [string, number])[] = [
  ['ps -ef', 0.15],
  ['ls -l /', 0.15],
  ['find /proc -maxdepth 2', 0.15],
  ['ss -tan', 0.4],
  ['sysctl -a', 0.4],
];
const MOST_ROUNDS = 20;

/** Redirected tools against the same binaries run inside the guest, which is one of its own with these tools in it. */
export async function measureRedirection(kernel: LabSpec['kernel'], report: Report, rounds: number): Promise<void> {
  const names = COMMANDS.map(([line]) => line.split(' ')[0] as string);
  await using lab = await LabGuest.start({ kernel }, { files: await toolFiles([...names, 'sh', 'date']) });
  const native = new Map<string, number[]>();
  for (const [line] of COMMANDS) native.set(line, await nativeTimes(lab, line));
  await using guest = await attach({ qmp: lab.qmp, callTimeout: 10_000 });
  const count = Math.min(rounds, MOST_ROUNDS);
  for (const [line, target] of COMMANDS) {
    report.suite(`penumbra run -- ${line}`);
    await redirected(guest, line);
    const results = await repeat(count, () => redirected(guest, line));
    const total = summarise(results.map(({ milliseconds }) => milliseconds.total));
    const inGuest = summarise(native.get(line) as number[]);
    report.add('redirected, from start to end', 'ms', total);
    report.add("of it in the guest's kernel", 'ms', summarise(results.map(({ milliseconds }) => milliseconds.guest)));
    report.add(
      'calls of the tool that were asked about',
      'count',
      summarise(results.map(({ notifications }) => notifications)),
    );
    report.add('the same binary inside the guest, fork and exec included', 'ms', inGuest);
    report.ratio('ratio', total, inGuest, target);
  }
}

async function redirected(guest: Guest, line: string): Promise<RunResult> {
  const fds = [openSync('/dev/null', 'r'), openSync('/dev/null', 'w'), openSync('/dev/null', 'w')] as const;
  try {
    return await guest.run(line.split(' '), { fds, budget: 0 });
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

/** Timed by the guest's own clock, several runs at a time, so that the console's part does not count. */
async function nativeTimes(lab: LabGuest, line: string): Promise<number[]> {
  const each = 5;
  const script = `a=$(/usr/bin/date +%s%N); for i in ${'x '.repeat(each)}; do ${line} > /dev/null 2>&1; done; b=$(/usr/bin/date +%s%N); echo $(((b - a) / ${each}))`;
  return repeat(4, async () => {
    const { stdout } = await lab.run(`env PATH=/usr/sbin:/usr/bin:/bin /usr/bin/sh -c '${script}'`);
    return Number(stdout.toString()) / 1e6;
  });
}
