/**
 * Runs in L1: stops busy guests of the second level in every way, compares what is read of their registers, has a penumbra
 * killed in the middle, and reports in one line of JSON per guest (StopsReport).
 *
 *     node dist/test/lab/nested/stops.js '[{"vcpus":1,"comparisons":50,"kills":4,"rounds":50,"benchmark":false}]'
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { attach, type Guest, PenumbraError } from '../../../src/index.js';
import { LabGuest } from '../../../src/lab/index.js';
import { LiveTarget } from '../../../src/target/live.js';
import type { VcpuState } from '../../../src/target/target.js';
import { manyRounds } from '../rounds.js';
import { TruthMonitor } from '../truthMonitor.js';
import type { StopsReport, StopsRequest } from './report.js';

const CALL_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 60_000;
const PATIENCE_MS = 120_000;
const WORK_TIMEOUT_MS = 300_000;
const WORK_TOLERANCE = 1.02;
/** Of `struct kvm_run`: include/uapi/linux/kvm.h. */
const VALID_REGS_OFFSET = 288;

const stopperProgram = fileURLToPath(new URL('stopper.js', import.meta.url));

for (const request of JSON.parse(process.argv[2] ?? '[]') as StopsRequest[]) {
  process.stdout.write(`${JSON.stringify(await stops(request))}\n`);
}

async function stops({ vcpus, comparisons, kills, rounds, benchmark }: StopsRequest): Promise<StopsReport> {
  await using lab = await LabGuest.start({ accelerator: 'kvm', cpu: 'max', memoryMiB: 128, vcpus, load: 'busy' });
  const monitor = await TruthMonitor.connect(lab.files.truth);
  try {
    const registers = await compareRegisters(lab, comparisons);
    const costs = await measure(lab);
    const wounds: string[] = [];
    for (let kill = 0; kill < kills; kill += 1) wounds.push(...(await beKilled(lab, monitor, kill)));
    const said = (await textOf(lab, 'dmesg | wc -l')).trim();
    const before = benchmark ? await workTime(lab) : 0;
    await using guest = await attach({ qmp: lab.qmp, engine: 'kvm', callTimeout: CALL_TIMEOUT_MS });
    const kept = await manyRounds(guest, rounds);
    const { stopWay, stopWayReason } = await guest.info();
    let after = benchmark ? await workTime(lab) : 0;
    // The least of more runs, where other work on this machine made all of them slower.
    for (let more = 0; benchmark && more < 4 && after > before * WORK_TOLERANCE; more += 1) {
      after = Math.min(after, await workTime(lab));
    }
    // A guest that gets no processor time from this machine says so; that is not penumbra's doing.
    const news = await textOf(
      lab,
      `dmesg | tail -n +$((${said}+1)) | grep -v -e 'Long readout interval' -e 'hrtimer: interrupt took'`,
    );
    const end = await endOf(lab, guest);
    return { vcpus, stopWay, stopWayReason, registers, costs, kills, wounds, kept, news, work: { before, after }, end };
  } finally {
    monitor.close();
  }
}

/** Kills QEMU while its guest stands still; gives what penumbra says of that, and what it says later. */
async function endOf(lab: LabGuest, guest: Guest): Promise<string[]> {
  const failure = (error: unknown): string => (error instanceof PenumbraError ? error.code : String(error));
  const outlive = async (): Promise<string> => {
    await using shadow = await guest.shadow();
    process.kill(lab.pid, 'SIGKILL');
    await sleep(200);
    return `pid ${await shadow.syscall('getpid')}`;
  };
  return [await outlive().catch(failure), await guest.processes().then(() => 'answers', failure)];
}

async function textOf(lab: LabGuest, command: string): Promise<string> {
  return (await lab.run(command, PATIENCE_MS)).stdout.toString();
}

/** The gdbstub's account of the registers is QEMU's own. */
async function compareRegisters(lab: LabGuest, count: number): Promise<StopsReport['registers']> {
  await using target = await LiveTarget.open({ qmp: lab.qmp });
  const differences: string[] = [];
  let compared = 0;
  for (let stop = 0; stop < count; stop += 1) {
    await sleep(stop % 7);
    const { stub, pages } = await target.native.compareRegisters(STOP_TIMEOUT_MS);
    if (pages.length === 0) continue;
    compared += 1;
    for (const [index, state] of stub.entries()) {
      const [ours, theirs] = [told(pages[index], state), told(state, state)];
      if (ours !== theirs) differences.push(`${ours}\n${theirs}`);
    }
  }
  return { compared, differences };
}

/** A user's GS base that was not read counts as right: kernelGsBase of native/hypervisor/registers.h. */
function told(state: VcpuState | undefined, truth: VcpuState): string {
  const isUnread = state?.kernelGsBase === 0n && truth.gsBase >= 1n << 63n;
  const shown = isUnread ? { ...state, kernelGsBase: truth.kernelGsBase } : state;
  return JSON.stringify(shown, (_, value) =>
    typeof value === 'bigint' ? value.toString(16) : value instanceof BigUint64Array ? [...value].map(String) : value,
  );
}

/** A stop with registers in both ways: the least of many, in ms. (L1 shares a processor with all that runs beside it.) */
async function measure(lab: LabGuest): Promise<StopsReport['costs']> {
  await using guest = await attach({ qmp: lab.qmp, engine: 'unicorn', callTimeout: CALL_TIMEOUT_MS });
  const least = async (short: boolean): Promise<number> => {
    const times: number[] = [];
    for (let round = 0; round < 50; round += 1) {
      const { stop, registers } = await guest.measureStop(short);
      times.push(stop + registers);
      await sleep(2);
    }
    return Math.min(...times);
  };
  return { short: await least(true), byStub: await least(false) };
}

/** Kills a penumbra that stops the guest all the time; gives what is wrong with QEMU or the guest afterwards. */
async function beKilled(lab: LabGuest, monitor: TruthMonitor, count: number): Promise<string[]> {
  const child = spawn(process.execPath, [stopperProgram, lab.qmp], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [way] = (await once(child.stdout, 'data')) as [Buffer];
  await sleep((count * 7) % 40);
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
  const wounds = way.toString() === 'kvm_run\n' ? [] : [`stopped by ${way.toString()}`];
  for (const end = performance.now() + PATIENCE_MS; ; await sleep(5)) {
    const left = await leftOver(lab.pid, monitor);
    if (left.length === 0) break;
    if (performance.now() > end) return [...wounds, ...left];
  }
  return (await textOf(lab, 'echo alive')) === 'alive\n' ? wounds : [...wounds, 'the guest does not answer'];
}

async function leftOver(pid: number, monitor: TruthMonitor): Promise<string[]> {
  const { status } = (await monitor.execute('query-status')) as { status: string };
  const chardevs = (await monitor.execute('query-chardev')) as { label: string }[];
  return [
    ...(status === 'running' ? [] : [status]),
    ...chardevs.flatMap(({ label }) => (label.startsWith('penumbra-') ? label : [])),
    ...readdirSync(`/proc/${pid}/task`).filter((id) => !/^TracerPid:\s+0$/m.test(statusOf(pid, id))),
    ...validRegisters(pid).flatMap((bits) => (bits === 0n ? [] : `kvm_valid_regs ${bits}`)),
  ];
}

function statusOf(pid: number, thread: string): string {
  return readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
}

/** What each vCPU's kvm_run asks of KVM, as QEMU has it mapped. */
function validRegisters(pid: number): bigint[] {
  const mappings = readFileSync(`/proc/${pid}/maps`, 'utf8').matchAll(/^([0-9a-f]+)-.*anon_inode:kvm-vcpu:/gm);
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    return [...mappings].map(([, start]) => {
      const word = Buffer.alloc(8);
      readSync(memory, word, 0, 8, BigInt(`0x${start}`) + BigInt(VALID_REGS_OFFSET));
      return word.readBigUInt64LE();
    });
  } finally {
    closeSync(memory);
  }
}

/** The least processor time, in ms, that a fixed piece of work took the guest of so many times: proc_pid_schedstat. */
async function workTime(lab: LabGuest): Promise<number> {
  const work = 'i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; cat /proc/$$/schedstat';
  const { stdout } = await lab.run(`for round in $(seq 25); do sh -c '${work}'; done`, WORK_TIMEOUT_MS);
  const runs = [...stdout.toString().matchAll(/^(\d+) \d+ \d+$/gm)].map(([, ns]) => Number(ns) / 1e6);
  return Math.min(...runs);
}
