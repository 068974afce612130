/** Shadows of real guests: against what the guest's own /proc says, against a raw walk at the same stop, without a trace. */
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { attach, type Guest } from '../../src/index.js';
import { findFiles } from '../../src/inspect/findFiles.js';
import { listDirectory } from '../../src/inspect/listDirectory.js';
import { describeProcesses, type ProcessSample } from '../../src/inspect/processes.js';
import { sampleProcessFiles } from '../../src/inspect/processFiles.js';
import { processWalk, walkQuestion } from '../../src/inspect/processWalk.js';
import { readWholeFile } from '../../src/inspect/readFile.js';
import type { Process } from '../../src/inspect/records.js';
import { uname } from '../../src/inspect/uname.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { type Task, Tasks } from '../../src/kernel/tasks.js';
import type { LabSpec } from '../../src/lab/index.js';
import { compareMetadata } from '../../src/shadow/compareMetadata.js';
import { AT_FDCWD } from '../../src/shadow/constants.js';
import type { Shadow } from '../../src/shadow/shadow.js';
import { StepList } from '../../src/shadow/stepList.js';
import { out } from '../../src/shadow/syscallArgument.js';
import { syscallTable } from '../../src/shadow/syscallTable.js';
import { cli } from '../lab/commandLine.js';
import { labGuest, type TestGuest } from '../lab/driver.js';
import { stopBetweenUpdates } from '../lab/pause.js';
import { growth, manyRounds } from '../lab/rounds.js';
import { processesBySelf, type SelfView } from '../lab/selfView.js';
import { syscallMetadata } from '../lab/syscallMetadata.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 3_600_000 : 600_000);

/** Under an older QEMU two processors and this kernel end in a panic of the guest's own. */
const newest: Partial<LabSpec> = { kernel: '6.12', vcpus: 2, emulator: 'qemu10', memoryMiB: 512 };

const GUESTS: Partial<LabSpec>[] = [
  { kernel: '6.1', load: 'idle', pti: true },
  { kernel: '5.10', load: 'busy', cpu: 'max', pti: true },
  { ...newest, load: 'busy', cpu: 'max', pti: false },
];
const MORE_GUESTS: Partial<LabSpec>[] = [
  { kernel: '5.10', load: 'idle', pti: false, ram: 'file' },
  { kernel: '6.1', load: 'busy', cpu: 'max', vcpus: 2 },
  { ...newest, load: 'idle' },
];
const FORKING: Partial<LabSpec>[] = [{ kernel: '6.1', load: 'forks' }];
const MORE_FORKING: Partial<LabSpec>[] = [
  { kernel: '5.10', load: 'forks', vcpus: 2 },
  { ...newest, load: 'forks', cpu: 'max' },
];

/** All that ask a guest, and something that each answer holds. */
const COMMANDS: [command: string, answer: RegExp][] = [
  ['info', /6\.|5\./],
  ['ps', /sleep 100001/],
  ['ls /srv/tree', /^numbers$/m],
  ['cat /srv/tree/numbers', /^1\n2\n3\n/],
  ['stat /srv/tree', /drwx/],
  ['find /srv/tree --name deep*', /deepest/],
  ['uname', /^Linux lab /],
  ['syscall mkdir /tmp/only-in-the-shadow', /0/],
  ['call nr_processes', /\d/],
];

const ROUNDS = LONG ? 1000 : 50;
const STOPS = LONG ? 300 : 60;
const TURNS = 20;
/** Of the stops: in kernel code, and not in its idle loop. */
const KERNEL_SHARE = 50 / 300;
const RETRY_SHARE = 0.05;
/** A few retries more or less say nothing about the rate when there are few stops. */
const RETRIES_BY_CHANCE = LONG ? 0 : 3;

/** Each of the two parts of the processor time is rounded down to ticks. */
const TICK_MS = 10;
/** The guest's clock is read as of its last tick, which lies back a little. */
const CLOCK_LAG_S = 0.5;
/** btime is whole seconds, and the guest's clock moves in ticks. */
const BTIME_ERROR_S = 1.5;
/** pid_links[PIDTYPE_PID] and [PIDTYPE_TGID], each an hlist_node: next, pprev (include/linux/pid_types.h) */
const NUMBER_LINKS = [0n, 16n];
const PPREV = 8n;

const title = (spec: Partial<LabSpec>): string => Object.values(spec).join(' ');

for (const [index, spec] of (LONG ? [...GUESTS, ...MORE_GUESTS] : GUESTS).entries()) {
  t.test(`what the guest says itself: ${title(spec)}`, async (t) => {
    await using lab = await labGuest(t, spec);
    await using guest = await attach({ qmp: lab.socket });
    await t.test('processes', (t) => compareProcesses(t, lab, guest));
    if (index === 0) await t.test('what was not foreseen', (t) => surprise(t, lab, guest));
    await t.test('clocks and names', (t) => compareMoments(t, lab, guest));
    await t.test('a page that the guest has locked', (t) => readLockedPage(t, lab, guest));
    await t.test("system calls by the guest's own metadata", (t) => compareSyscalls(t, guest));
    await t.test('a paused guest', (t) => leaveNoTrace(t, lab, guest, LONG || index === 0 ? COMMANDS : []));
    t.comment(
      `${guest.counts.stops} stops, ${guest.counts.retries} in vain: ${JSON.stringify(guest.counts.retriesByCode)}`,
    );
  });
}

for (const spec of LONG ? [...FORKING, ...MORE_FORKING] : FORKING) {
  t.test(`every stop against a raw walk: ${title(spec)}`, (t) => compareStops(t, spec));
}

/** Each process by its own guest, then by penumbra, then by its guest again: what did not change must be the same. */
async function compareProcesses(t: Test, lab: TestGuest, guest: Guest): Promise<void> {
  const before = await processesBySelf(lab);
  const processes = await guest.processes();
  const after = await processesBySelf(lab);

  const differences: string[] = [];
  let compared = 0;
  const byPid = new Map(processes.map((process) => [process.pid, process]));
  for (const [pid, first] of before) {
    const last = after.get(pid);
    if (last === undefined || last.start !== first.start) continue;
    const process = byPid.get(pid);
    if (process === undefined) {
      differences.push(`${pid} (${first.exact.get('comm')}) is missing`);
      continue;
    }
    compared += 1;
    const isStill = lab.spec.load === 'idle' && pid !== 1;
    differences.push(...compareProcess(process, first, last, isStill, lab.spec.vcpus));
  }
  for (const { pid, comm, kernelThread } of processes) {
    // A worker thread comes and goes; everything else lives on, or was started by the questions asked in the guest.
    if (!before.has(pid) && !after.has(pid) && !kernelThread)
      differences.push(`${pid} (${comm.toString()}) is not there`);
  }
  const ps = (await lab.run('ps -o pid,args')).stdout.toString('latin1').split('\n').slice(1);
  const lines = new Map(ps.map((line) => [Number(line.slice(0, 5)), line.slice(6).trimEnd()] as const));
  for (const { pid, comm, args } of processes) {
    const line = lines.get(pid);
    if (line === undefined || args.length === 0) continue;
    if (!linesOfPs(comm, args).some((ours) => ours.startsWith(line))) differences.push(`ps shows ${line}`);
  }
  const btime = Number(/^btime (\d+)/m.exec(await lab.text('cat /proc/stat'))?.[1]);
  for (const { pid, startTime } of processes) {
    const seconds = startTime / 1000 - btime - (before.get(pid)?.start ?? Number.NaN) / 100;
    if (Math.abs(seconds) > BTIME_ERROR_S) differences.push(`the start of ${pid} is ${seconds} s off`);
  }
  t.same(differences, []);
  t.ok(compared > 40, `${compared} processes compared`);
}

/** busybox's ps puts the name before the arguments of a script's interpreter. */
function linesOfPs(comm: Buffer, args: readonly Buffer[]): string[] {
  const line = args.map((arg) => arg.toString('latin1')).join(' ');
  return [line, `{${comm.toString('latin1')}} ${line}`];
}

/** Fields of a process that differ from what the guest said both before and after. */
function compareProcess(
  process: Process,
  before: SelfView,
  after: SelfView,
  isStill: boolean,
  vcpus: number,
): string[] {
  const differences: string[] = [];
  const ours = new Map<string, string>(
    Object.entries({
      comm: process.comm.toString('latin1'),
      ppid: process.ppid,
      pgrp: process.pgrp,
      session: process.session,
      tty: process.tty,
      priority: process.priority,
      nice: process.nice,
      threads: process.threads,
      vsize: process.vsize,
      uid: process.uid,
      gid: process.gid,
      args: process.args.map((arg) => arg.toString('latin1')).join('\0'),
      ...(isStill ? { rss: process.rss, state: process.state } : {}),
      ...(isStill && vcpus === 1 ? { processor: process.processor } : {}),
    }).map(([name, value]) => [name, String(value)]),
  );
  for (const [name, mine] of ours) {
    const theirs = before.exact.get(name);
    if (theirs !== after.exact.get(name) || theirs === mine) continue;
    // Workers are named after what they work on at the moment.
    if (name === 'comm' && mine.startsWith('kworker/')) continue;
    differences.push(`${process.pid}: ${name} is ${mine}, the guest says ${theirs}`);
  }
  const total = process.utime + process.stime;
  if (total < before.processorTime - TICK_MS || total > after.processorTime + TICK_MS) {
    differences.push(
      `${process.pid}: ran for ${total} ms, the guest says ${before.processorTime} to ${after.processorTime}`,
    );
  }
  return differences;
}

async function compareMoments(t: Test, lab: TestGuest, guest: Guest): Promise<void> {
  const uptime = async () => Number((await lab.text('cat /proc/uptime')).split(' ')[0]);
  const before = await uptime();
  const ours = Number((await readWholeFile(guest, '/proc/uptime')).toString().split(' ')[0]);
  const after = await uptime();
  t.ok(ours >= before - CLOCK_LAG_S && ours <= after, `uptime ${ours} between ${before} and ${after}`);

  const name = await uname(guest);
  t.equal(
    `${name.sysname} ${name.nodename} ${name.release} ${name.version} ${name.machine}`,
    await lab.text('uname -snrvm'),
  );
  t.equal((await readWholeFile(guest, '/srv/tree/numbers')).toString(), `${await lab.text('cat /srv/tree/numbers')}\n`);
}

/** A page of init's program, locked as by a guest that was stopped in a page fault, is read all the same. */
async function readLockedPage(t: Test, lab: TestGuest, guest: Guest): Promise<void> {
  const [, start, offset, path] =
    /^(\w+)-\w+ r-xp (\w+) \S+ \d+ +(.*)$/m.exec(await lab.text('cat /proc/1/maps')) ?? [];
  const address = BigInt(`0x${start}`);
  const place = guest.memory(1).extents(address, address + 4096n)[0] as { gpa: bigint };
  const { kernel } = guest;
  const pages = kernel.virtual.read(kernel.requireSymbol('vmemmap_base'), 8).readBigUInt64LE();
  const page = pages + (place.gpa >> 12n) * BigInt(kernel.sizeof('page') as number);
  const flags = page + BigInt(kernel.requireOffset('page.flags'));

  const bit = (name: string): number => 1 << Number(kernel.enumerator(name));
  const readWith = async (set: number, cleared: number) => {
    await using shadow = await guest.shadow();
    const fd = await shadow.syscall('openat', AT_FDCWD, path as string, 0);
    const word = await shadow.read(flags, 8);
    word[0] = ((word[0] as number) | set) & ~cleared;
    await shadow.write(flags, word);
    return await shadow.call('pread64', fd, out(4096), 4096, BigInt(`0x${offset}`));
  };
  const { value, arguments: passed } = await readWith(bit('PG_locked'), 0);
  t.equal(value, 4096n);
  t.same(passed[1]?.bytes, guest.memory(1).read(address, 4096));
  const unread = await readWith(bit('PG_locked'), bit('PG_uptodate')).catch((error: unknown) => error);
  t.match(unread, { code: 'WOULD_BLOCK' }, 'one that is still being read is not');
}

/** What the table says of the calls' arguments, against what the guest's kernel was compiled from. */
async function compareSyscalls(t: Test, guest: Guest): Promise<void> {
  const metadata = syscallMetadata(guest.kernel);
  if (metadata === undefined) return t.comment('the kernel describes no system calls (CONFIG_FTRACE_SYSCALLS)');
  t.ok(metadata.length > 300, `${metadata.length} calls described`);
  const wrong = compareMetadata(syscallTable(), metadata).filter(({ kind }) => kind !== 'name');
  t.same(wrong, []);
}

/** Everything there is, asked of a guest that stands still: RAM and registers stay as they are. */
async function leaveNoTrace(t: Test, lab: TestGuest, guest: Guest, commands: typeof COMMANDS): Promise<void> {
  const state = async () => ({
    run: await lab.runState(),
    ram: await lab.ramHash(),
    registers: await allRegisters(lab),
  });
  const resumes = () => lab.events.filter(({ event }) => event === 'RESUME').length;
  await stopBetweenUpdates(lab, () => guest.processes());
  const before = await state();
  const resumed = resumes();

  const { calls } = await guest.statistics();
  const { stops } = guest.counts;
  await askEverything(t, guest);
  t.ok((await guest.statistics()).calls > calls + 100, 'calls were executed');
  t.ok(guest.counts.stops >= stops + 6);
  t.same(await state(), before, 'RAM and registers are unchanged');
  await guest.close();
  for (const [command, answer] of commands) {
    const { status, stdout, stderr } = await cli(...command.split(' '), '--qmp', lab.socket);
    t.match({ status, stderr, stdout: stdout.toString() }, { status: 0, stderr: '', stdout: answer }, command);
  }

  t.same(await state(), before, 'RAM and registers are unchanged');
  t.equal(resumes(), resumed, 'it never ran');
  await lab.qmp('cont');
  t.equal(await lab.text('hostname; ls -d /tmp/only* 2> /dev/null || echo nothing there'), 'lab\nnothing there');
}

async function allRegisters(lab: TestGuest): Promise<[string, bigint][][]> {
  const vcpus = Array.from({ length: lab.spec.vcpus }, (_, vcpu) => lab.registers(vcpu));
  return (await Promise.all(vcpus)).map((registers) => [...registers]);
}

async function askEverything(t: Test, guest: Guest): Promise<void> {
  const pids = async () => (await guest.processes()).map(({ pid }) => pid);
  const first = await pids();
  t.ok(first.length > 40);
  t.same(await pids(), first, 'the same moment, asked twice');
  t.equal(new Tasks(guest.kernel).processes().length, first.length);
  await guest.info();
  await uname(guest);
  await listDirectory(guest, '/srv/tree');
  t.ok((await findFiles(guest, '/srv/tree')).found.length > 300);
  await readWholeFile(guest, '/srv/tree/binary');
  await guest.use(async (shadow) => {
    t.equal(await shadow.syscall('mkdir', '/tmp/only-in-the-shadow'), 0n);
    t.equal(await shadow.syscall('newfstatat', AT_FDCWD, '/tmp/only-in-the-shadow'), 0n, 'the call was executed');
    t.equal(await shadow.syscall('sethostname', 'changed', 7), 0n);
    t.equal(await shadow.syscall('setuid', 1000), 0n);
    t.equal(await shadow.syscall('getuid'), 1000n);
  });
  await guest.use(async (shadow) => {
    t.equal(await shadow.syscall('newfstatat', AT_FDCWD, '/tmp/only-in-the-shadow'), -2n, 'ENOENT in the next shadow');
    t.equal(await shadow.syscall('getuid'), 0n);
  });
}

/** Processes that come, go, or have long command lines. */
async function surprise(t: Test, lab: TestGuest, guest: Guest): Promise<void> {
  const look = async (pid: number): Promise<number[] | undefined> => {
    const process = (await guest.processes()).find((process) => process.pid === pid);
    return process?.args.map((arg) => arg.length);
  };
  await guest.processes();
  const talker = `sh -c 'sleep 1000; :' $(yes 12345678 | head -n 600) > /dev/null &`;
  const pid = Number(await lab.text(`${talker} until grep -q 12345678 /proc/$!/cmdline; do :; done; echo $!`));
  const lengths = ['sh', '-c', 'sleep 1000; :'].map((arg) => arg.length).concat(Array(600).fill(8));
  for (const when of ['when it is new', 'once more']) t.same(await look(pid), lengths, when);
  await lab.text(`kill ${pid}; while grep -q 12345678 /proc/${pid}/cmdline; do :; done 2> /dev/null`);
  t.notOk((await look(pid))?.length, 'at most a zombie is left');
}

/** A guest in which processes come and go: at each stop the shadow's answer and a walk of the raw task list. */
async function compareStops(t: Test, spec: Partial<LabSpec>): Promise<void> {
  await using lab = await labGuest(t, spec);
  await using guest = await attach({ qmp: lab.socket });
  const complaints = () => lab.text('dmesg | grep -ciE "bug|oops|warning|stall" || :');
  const complaintsBefore = await complaints();
  const tasks = new Tasks(guest.kernel);
  const { counts } = guest;
  let unwalkable = 0;
  let betwixt = 0;
  const standstill: number[] = [];
  const differences: string[] = [];
  for (let stop = 0; stop < STOPS; stop += 1) {
    const { sample, raw } = await guest.use(async (shadow) => ({
      sample: await sampleBothWays(t, guest.kernel, shadow),
      raw: walk(tasks, guest.kernel),
    }));
    const processes = describeProcesses(sample);
    standstill.push(counts.lastStandstill);
    if (raw === undefined) unwalkable += 1;
    else differences.push(...compareWithWalk(processes, raw).map((difference) => `stop ${stop}: ${difference}`));
    betwixt += raw?.filter(({ isNumbered }) => !isNumbered).length ?? 0;
    // Uneven, so that the guest's own rhythm is met everywhere.
    await sleep(3 + ((stop * 7) % 11));
  }
  standstill.sort((a, b) => a - b);
  const percent = ((100 * counts.retries) / counts.stops).toFixed(1);
  t.comment(
    `${STOPS} answers from ${counts.stops} stops (${JSON.stringify(counts.byClass)}), ${counts.retries} in vain = ${percent} % ` +
      `(${JSON.stringify(counts.retriesByCode)}); ${unwalkable} while the task list changed, ${betwixt} with a task on its way in or out; ` +
      `the guest stood still for ${standstill[STOPS >> 1]?.toFixed(1)} ms (median)`,
  );
  t.same(differences, []);
  t.ok(unwalkable <= STOPS / 20);
  t.ok(counts.byClass.kernel >= STOPS * KERNEL_SHARE, `${counts.byClass.kernel} stops in kernel code`);
  t.ok(counts.retries <= counts.stops * RETRY_SHARE + RETRIES_BY_CHANCE, `${percent} % of the stops in vain`);
  if (lab.spec.vcpus === 1) await t.test('moments that are chosen', (t) => chooseMoments(t, guest));
  t.equal(await complaints(), complaintsBefore, "the guest's kernel does not complain");
}

/** The walk inside the shadow and the files of /proc say the same of the same instant. */
async function sampleBothWays(t: Test, kernel: Kernel, shadow: Shadow): Promise<ProcessSample> {
  const byFiles = await sampleProcessFiles(shadow);
  const walk = processWalk(kernel);
  if (walk === undefined) throw new Error(`kernel ${kernel.release} has no walk`);
  const list = new StepList();
  const read = walkQuestion(walk)(list);
  const byWalk = read(await shadow.batch(list.steps, { mayBlock: true }));
  // Not where a command line is behind a lock that the guest holds.
  if (byWalk !== undefined) t.same(printable(byWalk), printable(byFiles));
  return byWalk ?? byFiles;
}

/** Kernel threads have an owner and a command line or not: either means the same. */
function printable({ processes }: ProcessSample): object[] {
  return processes.map(({ pid, stat, owner = { uid: 0, gid: 0 }, commandLine = Buffer.alloc(0) }) => ({
    ...{ pid, owner, commandLine: commandLine.toString('latin1') },
    ...{ ...stat, comm: stat.comm.toString('latin1') },
  }));
}

/** A shadow that stays open is not of a moment in the middle of kernel code, where such a guest is nine times in ten. */
async function chooseMoments(t: Test, guest: Guest): Promise<void> {
  let inKernel = 0;
  for (let turn = 0; turn < TURNS; turn += 1) {
    await using shadow = await guest.shadow();
    inKernel += shadow.stopClass === 'kernel' ? 1 : 0;
  }
  t.ok(inKernel <= TURNS / 2, `${inKernel} of ${TURNS} in kernel code`);
}

/** A task, and whether its number leads to it, as it must for /proc to show it. */
interface WalkedTask extends Task {
  isNumbered: boolean;
}

/**
 * Undefined where the guest was stopped in the middle of a change of the list. copy_process() (kernel/fork.c) puts a
 * task into the list before its number leads to it, __unhash_process() (kernel/exit.c) takes the number away first.
 */
function walk(tasks: Tasks, kernel: Kernel): WalkedTask[] | undefined {
  const links = BigInt(kernel.requireOffset('task_struct.pid_links'));
  const pointer = (at: bigint): bigint | undefined => kernel.virtual.tryRead(at, 8)?.readBigUInt64LE();
  const isLinked = (node: bigint): boolean => {
    const previous = pointer(node + PPREV);
    return previous !== undefined && previous !== 0n && pointer(previous) === node;
  };
  try {
    return tasks.processes().map((task) => {
      const isNumbered = NUMBER_LINKS.every((link) => isLinked(task.address + links + link));
      return { ...task, isNumbered };
    });
  } catch (error) {
    if ((error as { code?: string }).code === 'CORRUPT') return undefined;
    throw error;
  }
}

function compareWithWalk(processes: readonly Process[], tasks: readonly WalkedTask[]): string[] {
  const raw = new Map(tasks.filter(({ isNumbered }) => isNumbered).map((task) => [task.pid, describeTask(task)]));
  const differences: string[] = [];
  for (const process of processes) {
    const ours = describeProcess(process);
    if (ours !== raw.get(process.pid))
      differences.push(`in the shadow ${ours}, in the task list ${raw.get(process.pid)}`);
  }
  const shown = new Set(processes.map(({ pid }) => pid));
  for (const [pid, theirs] of raw) {
    if (!shown.has(pid)) differences.push(`not in the shadow: ${theirs}`);
  }
  return differences;
}

function describeProcess({ pid, ppid, uid, gid, state, comm, kernelThread }: Process): string {
  return [pid, ppid, uid, gid, stateOf(pid, state), nameOf(comm, kernelThread)].join(' ');
}

function describeTask({ pid, ppid, euid, egid, state, comm, isKernelThread }: Task): string {
  return [pid, ppid, euid, egid, stateOf(pid, state), nameOf(comm, isKernelThread)].join(' ');
}

/** init is the borrowed task, which runs in the shadow. */
function stateOf(pid: number, state: string): string {
  return pid === 1 ? 'borrowed' : state;
}

/** Kernel threads are shown with what they work on at the moment. */
function nameOf(comm: Buffer, isKernelThread: boolean): string {
  return isKernelThread ? 'kernel thread' : comm.toString('latin1');
}

t.test('many stops of a busy guest', async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1', load: 'busy' });
  await using guest = await attach({ qmp: lab.socket });
  await guest.processes();
  const log = await lab.text('dmesg');
  const kept = await manyRounds(guest, ROUNDS);
  t.same(growth(kept), {}, JSON.stringify(kept));
  const said = (await lab.text('dmesg')).slice(log.length).split('\n').filter(Boolean);
  t.same(
    said.filter((line) => !/hrtimer: interrupt took/.test(line)),
    [],
    "the guest's kernel says nothing, but for a processor that the host took from it",
  );
});
