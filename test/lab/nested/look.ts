/**
 * Runs in L1: boots guests of the second level under KVM, one after the other, looks into each with penumbra, and
 * reports in lines of JSON what the guest says of itself and what penumbra says. The comparison is left to the test,
 * outside. All is done in one process, because here it takes seconds until a program is loaded and warm.
 *
 *     node dist/test/lab/nested/look.js '[{"spec":{"kernel":"6.1"},"engines":["unicorn"],"thorough":false}]'
 */
import { execFile, spawn } from 'node:child_process';
import { readdir, readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { attach, type EngineName, type Guest, PenumbraError } from '../../../src/index.js';
import { listDirectory } from '../../../src/inspect/listDirectory.js';
import { readWholeFile } from '../../../src/inspect/readFile.js';
import { uname } from '../../../src/inspect/uname.js';
import { LabGuest } from '../../../src/lab/index.js';
import { runTool } from '../runTool.js';
import { TruthMonitor } from '../truthMonitor.js';
import type {
  Answers,
  CommandRun,
  Look,
  LookEvent,
  LookLine,
  LookRequest,
  PausedLook,
  Refusal,
  Rescue,
  Truth,
} from './report.js';

/** Everything takes longer here: an emulator in an emulated machine. */
const CALL_TIMEOUT_MS = 60_000;
const GUEST_TIMEOUT_MS = 300_000;
const RESCUE_PATIENCE_MS = 60_000;
const TREE = '/srv/tree';
const SOME_FOLDERS = '/srv';

const penumbraProgram = fileURLToPath(new URL('../../../../bin/penumbra', import.meta.url));
const holdProgram = fileURLToPath(new URL('hold.js', import.meta.url));

const QUESTIONS: Record<keyof Truth, string> = {
  ps: 'ps -o pid,ppid,user,args',
  passwd: 'cat /etc/passwd',
  uname: 'uname -a',
  tree: `cd ${TREE}; stat -c '%n %s %f %u %g' *`,
  uptime: 'cat /proc/uptime',
  files: `find ${SOME_FOLDERS}`,
};

type Report = (event: LookEvent) => void;

async function main(requests: readonly LookRequest[]): Promise<void> {
  for (const [request, wanted] of requests.entries()) {
    const report: Report = (event) => {
      const line: LookLine = { request, at: performance.now(), event };
      process.stdout.write(`${JSON.stringify(line)}\n`);
    };
    try {
      await lookAt(wanted, report);
    } catch (error) {
      report({ kind: 'failure', message: error instanceof Error ? (error.stack ?? error.message) : String(error) });
    }
  }
}

async function lookAt({ spec, engines, thorough }: LookRequest, report: Report): Promise<void> {
  await using lab = await LabGuest.start({ accelerator: 'kvm', cpu: 'max', memoryMiB: 128, ...spec });
  const clocksource = await textOf(lab, 'cat /sys/devices/system/clocksource/clocksource0/current_clocksource');
  report({ kind: 'guest', release: lab.release, bootMs: lab.bootMs ?? 0, clocksource });
  for (const engine of engines) report(await look(lab, engine));
  if (!thorough) return;
  const monitor = await TruthMonitor.connect(lab.files.truth);
  try {
    report(await lookAtPaused(lab, monitor));
    report(await beKilled(lab, monitor));
  } finally {
    monitor.close();
  }
  report(await runCommand(lab));
}

async function look(lab: LabGuest, engine: EngineName): Promise<Look | Refusal> {
  const before = await truthOf(lab);
  const begin = performance.now();
  let attached: number;
  let firstPs: number;
  let asked: number;
  let answers: Answers;
  let counts: Guest['counts'];
  let ps: { milliseconds: number; standstill: number };
  try {
    await using guest = await attach({ qmp: lab.qmp, engine, callTimeout: CALL_TIMEOUT_MS });
    attached = performance.now();
    await guest.processes();
    firstPs = performance.now();
    ps = await timePs(guest);
    answers = await askEverything(guest);
    counts = guest.counts;
    asked = performance.now();
  } catch (error) {
    if (!(error instanceof PenumbraError)) throw error;
    return { kind: 'refusal', engine, code: error.code, message: error.message };
  }
  const milliseconds = {
    attach: attached - begin,
    firstPs: firstPs - attached,
    ps: ps.milliseconds,
    standstill: ps.standstill,
    detach: performance.now() - asked,
  };
  return { kind: 'look', engine, before, answers, after: await truthOf(lab), milliseconds, retries: counts.retries };
}

async function timePs(guest: Guest): Promise<{ milliseconds: number; standstill: number }> {
  const begin = performance.now();
  await guest.processes();
  return { milliseconds: performance.now() - begin, standstill: guest.counts.lastStandstill };
}

async function askEverything(guest: Guest): Promise<Answers> {
  const info = await guest.info();
  const processes = await guest.processes();
  const { listings } = await listDirectory(guest, TREE, { status: true });
  const name = await uname(guest);
  return {
    processes: processes.map(({ pid, ppid, uid, state, comm, args }) => {
      return { pid, ppid, uid, state, comm: comm.toString('latin1'), args: args.map((arg) => arg.toString('latin1')) };
    }),
    passwd: (await readWholeFile(guest, '/etc/passwd')).toString('latin1'),
    uname: [name.sysname, name.nodename, name.release, name.version, name.machine].map((part) =>
      part.toString('latin1'),
    ),
    tree: (listings[0]?.entries ?? [])
      .map(({ name, status }) => {
        const mode = status?.mode.toString(16);
        return `${name.toString('latin1')} ${status?.size} ${mode} ${status?.uid} ${status?.gid}\n`;
      })
      .join(''),
    uptime: (await readWholeFile(guest, '/proc/uptime')).toString('latin1'),
    files: await redirectedFind(guest),
    engine: info.engine,
    pti: info.kernel.pti,
    vcpus: info.vcpus,
    slide: info.kernel.slide.toString(16),
  };
}

async function redirectedFind(guest: Guest): Promise<string> {
  const { exit, stdout, stderr } = await runTool(guest, ['/bin/busybox', 'find', ...SOME_FOLDERS.split(' ')]);
  return exit === 0 && stderr === '' ? stdout : `${exit}: ${stderr}`;
}

async function truthOf(lab: LabGuest): Promise<Truth> {
  const entries: [string, string][] = [];
  for (const [name, command] of Object.entries(QUESTIONS)) entries.push([name, await textOf(lab, command)]);
  return Object.fromEntries(entries) as unknown as Truth;
}

async function textOf(lab: LabGuest, command: string): Promise<string> {
  const { stdout } = await lab.run(command, GUEST_TIMEOUT_MS);
  return stdout.toString('latin1');
}

/** The whole of guest RAM before and after a look at a guest that was paused: not a byte may differ. */
async function lookAtPaused(lab: LabGuest, monitor: TruthMonitor): Promise<PausedLook> {
  await monitor.execute('stop');
  const path = await ramFile(lab.pid);
  const before = await readFile(path);
  let processes: number;
  {
    await using guest = await attach({ qmp: lab.qmp, engine: 'unicorn', callTimeout: CALL_TIMEOUT_MS });
    processes = (await guest.processes()).length;
  }
  const after = await readFile(path);
  const runState = await stateOf(monitor);
  await monitor.execute('cont');
  return { kind: 'paused', processes, changed: before.equals(after) ? 0 : countDifferences(before, after), runState };
}

async function ramFile(pid: number): Promise<string> {
  const folder = `/proc/${pid}/fd`;
  for (const name of await readdir(folder)) {
    const target = await readlink(`${folder}/${name}`).catch(() => '');
    if (target.startsWith('/memfd:memory-backend-memfd')) return `${folder}/${name}`;
  }
  throw new Error('guest RAM is in no file');
}

function countDifferences(before: Buffer, after: Buffer): number {
  return before.reduce((count, byte, index) => count + (byte === after[index] ? 0 : 1), 0);
}

async function stateOf(monitor: TruthMonitor): Promise<string> {
  return ((await monitor.execute('query-status')) as { status: string }).status;
}

/** Kills a penumbra that holds the guest, and waits for its watchdog to let the guest run. */
async function beKilled(lab: LabGuest, monitor: TruthMonitor): Promise<Rescue> {
  const child = spawn(process.execPath, [holdProgram, lab.qmp], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  await Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), ended]);
  const stateHeld = await stateOf(monitor);
  const begin = performance.now();
  child.kill('SIGKILL');
  await ended;
  let stateAfter = await stateOf(monitor);
  while (stateAfter !== 'running' && performance.now() - begin < RESCUE_PATIENCE_MS) {
    await sleep(5);
    stateAfter = await stateOf(monitor);
  }
  const milliseconds = performance.now() - begin;
  await textOf(lab, 'true');
  return { kind: 'rescue', stateHeld, stateAfter, milliseconds };
}

function runCommand(lab: LabGuest): Promise<CommandRun> {
  const args = [penumbraProgram, 'ps', '--qmp', lab.qmp, '--timeout', String(CALL_TIMEOUT_MS)];
  const begin = performance.now();
  return new Promise((resolve) => {
    execFile(process.execPath, args, (error, stdout, stderr) => {
      const status = typeof error?.code === 'number' ? error.code : error === null ? 0 : -1;
      const lines = stdout.split('\n').length - 1;
      resolve({ kind: 'command', status, lines, errors: stderr, milliseconds: performance.now() - begin });
    });
  });
}

await main(JSON.parse(process.argv[2] ?? '[]') as LookRequest[]);
