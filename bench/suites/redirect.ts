import { execFile } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { attach, type Guest } from '../../src/index.js';
import { hostProgram, toolFiles } from '../../src/lab/hostTools.js';
import { LabGuest, type LabSpec } from '../../src/lab/index.js';
import type { RunResult } from '../../src/redirect/run.js';
import { kvmSpeed } from '../../src/schedule/kvmSpeed.js';
import { withCompiled } from '../compile.js';
import type { Report } from '../report.js';
import { repeat, type Summary, summarise } from '../statistics.js';

/** Command lines and what their ratio to the same tool inside the guest may be. */
const COMMANDS: readonly (readonly [string, number])[] = [
  ['ps -ef', 0.15],
  ['ls -l /', 0.15],
  ['find /proc -maxdepth 2', 0.15],
  ['ss -tan', 0.4],
  ['sysctl -a', 0.4],
];
const MOST_ROUNDS = 20;
/** ms; 1 to 2 us are usual. */
const EXIT_OF_HARDWARE = 0.002;

/** gettid(2), which is answered without the guest once its number is known. */
const IDLE_CALLS = 100_000;
const IDLE_CALL = 186;
const IDLE_TARGET_US = 3;
const bareSource = fileURLToPath(new URL('../../../bench/host/notification.c', import.meta.url));
const callsSource = fileURLToPath(new URL('../../../bench/host/calls.c', import.meta.url));

/** Programs of the host that have to be there. */
export const TOOLS: readonly string[] = [...COMMANDS.map(([line]) => line.split(' ')[0] as string), 'sh', 'date'];

/** Redirected tools against the same binaries run inside the guest, which is one of its own with these tools in it. */
export async function measureRedirection(spec: Partial<LabSpec>, report: Report, rounds: number): Promise<void> {
  await using lab = await LabGuest.start(spec, { files: await toolFiles(TOOLS) });
  const native = new Map<string, NativeRuns>();
  for (const [line] of COMMANDS) native.set(line, await nativeTimes(lab, line));
  await using guest = await attach({ qmp: lab.qmp, callTimeout: 10_000 });
  const count = Math.min(rounds, MOST_ROUNDS);
  for (const [line, target] of COMMANDS) {
    report.suite(`penumbra run -- ${line}`);
    const words = line.split(' ');
    const { times, status } = native.get(line) as NativeRuns;
    requireStatus(`${line}, redirected,`, (await redirected(guest, words, 2)).exit, status);
    const before = await guest.statistics();
    const results = await repeat(count, () => redirected(guest, words));
    const exits = ((await guest.statistics()).exits - before.exits) / count;
    const total = summarise(results.map(({ milliseconds }) => milliseconds.total));
    const inGuest = summarise(times);
    report.add('redirected, from start to end', 'ms', total);
    report.add(
      "of it waiting for the guest's kernel",
      'ms',
      summarise(results.map(({ milliseconds }) => milliseconds.guest)),
    );
    report.add(
      'calls of the tool that were asked about',
      'count',
      summarise(results.map(({ notifications }) => notifications)),
    );
    report.add("calls to the guest's kernel for them", 'count', summarise(results.map(({ guestCalls }) => guestCalls)));
    report.add(
      'times the shadow was entered for these',
      'count',
      summarise(results.map(({ guestEntries }) => guestEntries)),
    );
    report.add('of these, before the tool asked', 'count', summarise(results.map(({ foreseen }) => foreseen)));
    report.add('the same binary inside the guest, fork and exec included', 'ms', inGuest);
    report.ratio('ratio', total, inGuest, target);
    if (exits > 0) await addExits(report, exits, total, inGuest);
  }
  // None is in the nested lab.
  if (hostProgram('gcc') !== undefined) await measureHandingOver(guest, report, count);
}

/** In the nested lab an exit costs many times what it does on a processor: what the latter would make of the time. */
async function addExits(report: Report, exits: number, total: Summary, inGuest: Summary): Promise<void> {
  const { exitNs } = await kvmSpeed('/dev/kvm');
  const saved = exits * Math.max(0, exitNs / 1e6 - EXIT_OF_HARDWARE);
  const computed = { ...total, median: total.median - saved, minimum: total.minimum - saved };
  const once = { rounds: total.rounds };
  report.add('exits from guest code', 'count', { median: exits, minimum: exits, ...once });
  report.add('what an exit costs here', 'us', { median: exitNs / 1000, minimum: exitNs / 1000, ...once });
  report.add('COMPUTED: from start to end with exits of 2 us', 'ms', computed);
  report.ratio('COMPUTED: ratio with exits of 2 us', computed, inGuest);
}

/** What a call costs that needs nothing of the shadow: two changes of the process, and a decision. */
async function measureHandingOver(guest: Guest, report: Report, rounds: number): Promise<void> {
  report.suite('penumbra run, a call that is answered at once');
  const each = await withCompiled(callsSource, [], async (program) => {
    const time = async (count: number): Promise<number> =>
      (await redirected(guest, [program, String(count), String(IDLE_CALL)])).milliseconds.total;
    const start = summarise(await repeat(rounds, () => time(1))).minimum;
    const calls = await repeat(rounds, () => time(IDLE_CALLS));
    return summarise(calls.map((milliseconds) => ((milliseconds - start) / IDLE_CALLS) * 1000));
  });
  report.add('from the call to the next one', 'us', each, IDLE_TARGET_US);
  report.add("of it the host's kernel: as long takes a few lines of C", 'us', await bareNotifications());
  const perSecond = (us: number): number => 1e6 / us;
  report.add('calls per second', 'count', {
    median: perSecond(each.median),
    minimum: perSecond(each.minimum),
    rounds: each.rounds,
  });
}

/** us */
async function bareNotifications(): Promise<Summary> {
  return withCompiled(bareSource, [], async (program) => {
    const { stdout } = await promisify(execFile)(program, []);
    return summarise(
      stdout
        .trim()
        .split('\n')
        .map((line) => Number(line) / 1000),
    );
  });
}

async function redirected(guest: Guest, line: readonly string[], errors?: number): Promise<RunResult> {
  const [tool = '', ...words] = line;
  const fds = [openSync('/dev/null', 'r'), openSync('/dev/null', 'w'), errors ?? openSync('/dev/null', 'w')] as const;
  try {
    return await guest.run([hostProgram(tool) ?? tool, ...words], { fds, budget: 0 });
  } finally {
    for (const fd of fds) if (fd !== errors) closeSync(fd);
  }
}

interface NativeRuns {
  times: number[];
  /** with which the tool ended */
  status: number;
}

/** A tool that cannot run is fast. */
function requireStatus(what: string, status: number, wanted: number): void {
  if (status !== wanted) throw new Error(`${what} ended with status ${status}, not ${wanted}`);
}

/** Timed by the guest's own clock, several runs at a time, so that the console's part does not count. */
async function nativeTimes(lab: LabGuest, line: string): Promise<NativeRuns> {
  const each = 5;
  const script = `a=$(/usr/bin/date +%s%N); for i in ${'x '.repeat(each)}; do ${line} > /dev/null 2>&1; done; b=$(/usr/bin/date +%s%N); echo $(((b - a) / ${each}))`;
  const inShell = (commands: string) => lab.run(`env PATH=/usr/sbin:/usr/bin:/bin /usr/bin/sh -c '${commands}'`);
  const { status } = await inShell(`${line} > /dev/null`);
  if (status >= 126) throw new Error(`the guest cannot run ${line}`);
  const times = await repeat(4, async () => Number((await inShell(script)).stdout.toString()) / 1e6);
  return { times, status };
}
