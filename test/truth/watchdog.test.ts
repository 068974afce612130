/** penumbra is killed in the middle of its work, and the guest goes on as it was found. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { attach } from '../../src/index.js';
import type { LabSpec } from '../../src/lab/index.js';
import { labGuest, type TestGuest } from '../lab/driver.js';
import type { MonitorEvent } from '../lab/truthMonitor.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 1_800_000 : 300_000);

const KILLS = LONG ? 50 : 10;
/** Of the kills: those at any moment, the way in included. The others wait for a standstill. */
const KILLS_ANYTIME = LONG ? 8 : 3;
const KILLS_WHILE_STANDING = LONG ? 40 : 6;
const KILLS_OF_PAUSED = LONG ? 12 : 3;
/** Enough for a standstill that lasts longer than it takes to notice it and to kill. */
const LISTINGS = 8;
const PATIENCE_MS = 30_000;

const victimProgram = fileURLToPath(new URL('../lab/victim.js', import.meta.url));
const publicFace = new URL('../../src/index.js', import.meta.url).href;

const SPECS: Partial<LabSpec>[] = [{ kernel: '6.1', load: 'forks' }];
const MORE_SPECS: Partial<LabSpec>[] = [{ kernel: '6.12', vcpus: 2, emulator: 'qemu10', memoryMiB: 512, load: 'busy' }];

for (const spec of LONG ? [...SPECS, ...MORE_SPECS] : SPECS) {
  t.test(`kill -9 of the process group: ${Object.values(spec).join(' ')}`, async (t) => {
    await using lab = await labGuest(t, spec);
    await lab.qmp('query-status');
    await t.test('of a running guest', (t) => killWhileRunning(t, lab));
    await t.test('of a paused guest', (t) => killWhilePaused(t, lab));
    await t.test('an end without close', (t) => endWithoutClose(t, lab));
  });
}

async function killWhileRunning(t: Test, lab: TestGuest): Promise<void> {
  let whileStanding = 0;
  let longest = 0;
  for (let count = 0; count < KILLS; count += 1) {
    const victim = start(lab);
    const seen = lab.events.length;
    if (count < KILLS_ANYTIME) await sleep((count * 997) % 1200);
    // The first stop is that of the way in, and a short one.
    else await standstill(lab, seen, 2 + (count % 4)).then(() => sleep((count * 7) % 13));
    const watchdogs = childrenOf(victim);
    const [before, killed] = await kill(victim);
    const took = await untilRestored(lab, 'running', watchdogs);
    if (stoodFrom(lab.events, before, killed)) {
      whileStanding += 1;
      longest = Math.max(longest, took);
    }
    t.equal(await lab.text('echo alive'), 'alive', `kill ${count}`);
  }
  t.comment(
    `${whileStanding} of ${KILLS} kills while the guest stood still; it ran on within ${longest.toFixed(0)} ms`,
  );
  t.ok(whileStanding >= KILLS_WHILE_STANDING);
  await using guest = await attach({ qmp: lab.socket });
  t.ok((await guest.processes()).length > 20, 'nothing stands in the way of the next one');
}

async function killWhilePaused(t: Test, lab: TestGuest): Promise<void> {
  await lab.qmp('stop');
  const ram = await lab.ramHash();
  const seen = lab.events.length;
  for (let count = 0; count < KILLS_OF_PAUSED; count += 1) {
    const victim = start(lab);
    if (count === 0) await sleep(300);
    else await once(victim.stdout!, 'data').then(() => sleep((count * 11) % 40));
    const watchdogs = childrenOf(victim);
    await kill(victim);
    await untilRestored(lab, 'paused', watchdogs);
  }
  t.same(
    lab.events.slice(seen).filter(({ event }) => event === 'RESUME'),
    [],
    'it never ran',
  );
  t.equal(await lab.ramHash(), ram);
  t.equal(await lab.runState(), 'paused');
  await lab.qmp('cont');
  t.equal(await lab.text('echo alive'), 'alive');
}

/** A program that forgets to close, or fails, while it holds a shadow. */
async function endWithoutClose(t: Test, lab: TestGuest): Promise<void> {
  const hold = `import { attach } from '${publicFace}';
    const guest = await attach({ qmp: process.argv[1] });
    const shadow = await guest.shadow();
    await shadow.syscall('getpid');`;
  for (const [end, status] of [
    ['', 0],
    ['process.exit(3);', 3],
    ['throw new Error("of the program");', 1],
  ] as const) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', `${hold}${end}`, lab.socket], {
      stdio: 'ignore',
    });
    const [code] = (await once(child, 'exit')) as [number | null];
    t.equal(code, status, end);
    await untilRestored(lab, 'running', []);
    t.equal(await lab.text('echo alive'), 'alive');
  }
}

function start(lab: TestGuest): ChildProcess {
  return spawn(process.execPath, [victimProgram, lab.socket, String(LISTINGS)], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

/** Returns when QEMU has reported the `number`th stop since event `seen`. */
async function standstill(lab: TestGuest, seen: number, number: number): Promise<void> {
  const stops = () => lab.events.slice(seen).filter(({ event }) => event === 'STOP').length;
  for (const end = performance.now() + PATIENCE_MS; stops() < number; await sleep(1)) {
    if (performance.now() > end) throw new Error('the victim does not stop its guest');
  }
}

/** Kills the whole group. @returns host time, in µs, right before and right after */
async function kill(victim: ChildProcess): Promise<[before: number, after: number]> {
  const exited = once(victim, 'exit');
  const before = hostTime();
  process.kill(-(victim.pid as number), 'SIGKILL');
  const after = hostTime();
  await exited;
  return [before, after];
}

/** Waits until the guest is in its state again and nothing of the victim is left. @returns ms that it took */
async function untilRestored(lab: TestGuest, state: string, watchdogs: readonly number[]): Promise<number> {
  const start = performance.now();
  let restored = 0;
  for (;;) {
    const labels = ((await lab.qmp('query-chardev')) as { label: string }[]).map(({ label }) => label);
    const isRestored = (await lab.runState()) === state;
    if (isRestored && restored === 0) restored = performance.now() - start;
    const left = [...watchdogs.filter(isAlive), ...labels.filter((label) => label.startsWith('penumbra-'))];
    if (isRestored && left.length === 0) return restored;
    if (performance.now() - start > PATIENCE_MS) throw new Error(`${await lab.runState()}, left: ${left.join(', ')}`);
    await sleep(2);
  }
}

/** Whether QEMU stopped the guest before the kill and let it run on only after it, by QEMU's own timestamps. */
function stoodFrom(events: readonly MonitorEvent[], before: number, after: number): boolean {
  const changes = events.filter(({ event }) => event === 'STOP' || event === 'RESUME');
  const last = changes.findLast((event) => timeOf(event) < before);
  const next = changes.find((event) => timeOf(event) >= before);
  return last?.event === 'STOP' && next?.event === 'RESUME' && timeOf(next) > after;
}

/** µs since the epoch, like QEMU's */
function hostTime(): number {
  return (performance.timeOrigin + performance.now()) * 1000;
}

function timeOf(event: MonitorEvent): number {
  const { timestamp } = event as MonitorEvent & { timestamp: { seconds: number; microseconds: number } };
  return timestamp.seconds * 1e6 + timestamp.microseconds;
}

function childrenOf({ pid }: ChildProcess): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
    );
  } catch {
    return [];
  }
}

function isAlive(pid: number): boolean {
  if (!existsSync(`/proc/${pid}`)) return false;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return stat[stat.lastIndexOf(')') + 2] !== 'Z';
  } catch {
    return false;
  }
}
