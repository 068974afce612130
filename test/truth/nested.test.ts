import t, { type Test } from 'tap';
import type { EngineName } from '../../src/index.js';
import { LAB_KERNELS, LAB_MACHINES, type LabSpec } from '../../src/lab/index.js';
import { lessKvm } from '../lab/lessKvm.js';
import { type NestedLab, nestedLab } from '../lab/nested/machine.js';
import type {
  Answers,
  CommandRun,
  GuestUp,
  LesserHostReport,
  Look,
  LookEvent,
  LookLine,
  LookRequest,
  PausedLook,
  Refusal,
  Rescue,
  StopsReport,
  StopsRequest,
  Truth,
} from '../lab/nested/report.js';
import { growth } from '../lab/rounds.js';

const LONG = process.env.PENUMBRA_LONG !== undefined;
const ENGINES: readonly EngineName[] = ['unicorn', 'kvm'];
const GUEST_TIMEOUT_MS = 300_000;
const STOPS_TIMEOUT_MS = 3_600_000;
/** The guest's clock is read as of its last tick, which lies back a little. */
const CLOCK_LAG_S = 0.5;

const LESS_KVM = 'lib/lessKvm.so';

/** Kernels, machines, processors and PTI differ; all combinations are for the full run. */
const SOME_SPECS: Partial<LabSpec>[] = [
  { kernel: '6.1', machine: 'microvm', pti: true, vcpus: 1 },
  { kernel: '6.12', machine: 'q35', pti: false, vcpus: 2 },
];

t.test('guests under KVM, in a nested lab', async (t) => {
  await using l1 = await nestedLab(t, { files: [{ name: LESS_KVM, source: lessKvm(t) }] });
  t.comment(`L1 boots in ${l1.bootMs.toFixed(0)} ms`);
  const specs = LONG ? everySpec() : SOME_SPECS;
  const lines = await look(
    t,
    l1,
    specs.map((spec, index) => ({ spec, engines: ENGINES, thorough: LONG || index === 0 })),
  );
  for (const [index, spec] of specs.entries()) {
    await t.test(Object.values(spec).join(' '), async (t) => {
      const events = lines.filter(({ request }) => request === index).map(({ event }) => event);
      t.ok(events.length > 0, 'was reported of');
      for (const event of events) check(t, spec, event);
    });
  }
  t.comment(`all took ${lines.at(-1)?.at.toFixed(0)} ms in L1`);
  await t.test('many stops of busy guests', (t) => stopOverAndOver(t, l1));
  // The last one: afterwards nobody may trace anything in L1.
  await t.test('a host that grants less', (t) => grantLess(t, l1));
});

/** Runs test/lab/nested/lesserHost.ts in L1. */
async function grantLess(t: Test, l1: NestedLab): Promise<void> {
  const command = `node dist/test/lab/nested/lesserHost.js /${LESS_KVM}`;
  const { stdout, stderr, status } = await l1.run(command, GUEST_TIMEOUT_MS);
  t.equal(status, 0, stderr.toString());
  const report = JSON.parse(stdout.toString()) as LesserHostReport;
  await t.test('without the right to trace QEMU', async (t) => checkTraceRights(t, report));
  await t.test('with less of KVM, or none', async (t) => checkLessKvm(t, report));
  t.same(report.states, ['running', 'prelaunch'], 'guests are left as they were found');
  t.comment(`all but the boot took ${report.milliseconds.toFixed(0)} ms`);
}

/** Shared RAM is read all the same and the gdbstub stops; private RAM cannot be had. */
function checkTraceRights(t: Test, { release, scopes, nobodyTraces }: LesserHostReport): void {
  const answers = { release, pid: 1 };
  const whatWorks = /Without that right: 'penumbra guests', and everything for a guest with shared RAM/;
  for (const { scope, shared, private: secluded } of scopes) {
    if (scope === 0) {
      t.match(shared, { ...answers, stopWay: 'kvm_run', tool: 0 });
      t.match(secluded, { code: 'NO_KERNEL' }, 'private RAM is read');
      continue;
    }
    const advice = new RegExp(
      `CAP_SYS_PTRACE .*, or as QEMU's user with .*ptrace_scope=0 \\(Yama has it at ${scope}\\)`,
    );
    t.match(shared, { ...answers, stopWay: 'gdbstub', stopWayReason: advice });
    // A tool is a child of penumbra, which scope 1 lets it trace.
    if (scope === 1) t.equal(shared.tool, 0);
    else
      t.match(shared.tool, { code: 'PERMISSION', message: /ptrace_scope is 2 .*CAP_SYS_PTRACE.*all other commands/ });
    t.match(secluded, { code: 'PERMISSION', message: advice });
    t.match(secluded, { message: whatWorks });
  }
  const { session, shared, private: secluded } = nobodyTraces;
  const reason = 'kernel.yama.ptrace_scope is 3';
  t.match(session, { ...answers, stopWay: 'kvm_run' });
  t.match(session.later, { ...answers, stopWay: 'gdbstub', stopWayReason: /may not be traced/ });
  t.match(shared, { ...answers, stopWay: 'gdbstub', stopWayReason: reason });
  t.match(shared.tool, { code: 'PERMISSION', message: reason });
  t.match(secluded, { code: 'PERMISSION', message: reason });
  t.match(secluded, { message: whatWorks });
}

function checkLessKvm(t: Test, { release, closedKvm, capabilities, feature }: LesserHostReport): void {
  const closed = 'cannot open /dev/kvm (the group kvm may, normally)';
  t.match(closedKvm.kvm, { code: 'PERMISSION', message: closed });
  t.match(closedKvm.auto, { release, engine: 'unicorn', engineReason: closed });
  t.ok(capabilities.length > 6);
  for (const { capability, value, kvm, auto } of capabilities) {
    const lack = `(KVM capability ${capability})`;
    t.match(kvm, { code: 'UNSUPPORTED', message: lack }, `capability ${capability} is ${value}`);
    t.match(auto, { engine: 'unicorn', engineReason: lack });
  }
  const smep = { code: 'UNSUPPORTED', message: /^KVM on this host lacks what the guest's processor has: smep$/ };
  t.match(feature, smep);
}

/** Runs test/lab/nested/stops.ts in L1. */
async function stopOverAndOver(t: Test, l1: NestedLab): Promise<void> {
  const counts = LONG
    ? { comparisons: 300, kills: 50, rounds: 1000, benchmark: true }
    : { comparisons: 20, kills: 2, rounds: 30, benchmark: false };
  for (const vcpus of LONG ? ([1, 2] as const) : ([2] as const)) {
    const request: StopsRequest = { vcpus, ...counts };
    const command = `node dist/test/lab/nested/stops.js '${JSON.stringify([request])}'`;
    const { stdout, stderr, status } = await l1.run(command, LONG ? STOPS_TIMEOUT_MS : GUEST_TIMEOUT_MS);
    t.equal(status, 0, stderr.toString());
    await t.test(`${vcpus} vCPUs`, async (t) => checkStops(t, request, JSON.parse(stdout.toString()) as StopsReport));
  }
}

function checkStops(t: Test, request: StopsRequest, report: StopsReport): void {
  const { registers, costs, wounds, kept, news, work } = report;
  t.equal(report.stopWay, 'kvm_run', report.stopWayReason);
  t.same(registers.differences, []);
  t.ok(registers.compared > request.comparisons / 2, `${registers.compared} stops compared`);
  t.comment(`a stop with registers: ${costs.short.toFixed(2)} ms, by the gdbstub ${costs.byStub.toFixed(2)} ms`);
  // The bench holds it to a third; here other work disturbs both.
  t.ok(costs.short < costs.byStub, 'held threads are cheaper than the gdbstub');
  t.same(wounds, [], `${report.kills} kills`);
  t.equal(kept.rounds, request.rounds);
  t.same(report.end, ['pid 1', 'GUEST_GONE'], 'a shadow outlives QEMU');
  t.equal(news, '', "the guest's kernel says nothing");
  t.same(growth(kept), {}, JSON.stringify(kept));
  if (!request.benchmark) return;
  t.comment(`the same work takes the guest ${work.before.toFixed(2)} ms before, ${work.after.toFixed(2)} ms after`);
  t.ok(work.after <= work.before * 1.02, 'the guest is as fast as before');
}

function everySpec(): Partial<LabSpec>[] {
  const specs: Partial<LabSpec>[] = [];
  for (const kernel of LAB_KERNELS) {
    for (const machine of LAB_MACHINES) {
      for (const pti of [true, false]) {
        for (const vcpus of [1, 2] as const) {
          for (const cpu of ['max', 'qemu64'] as const) specs.push({ kernel, machine, pti, vcpus, cpu });
        }
      }
    }
  }
  return specs;
}

/** Runs test/lab/nested/look.ts in L1. */
async function look(t: Test, l1: NestedLab, requests: LookRequest[]): Promise<LookLine[]> {
  const command = `node dist/test/lab/nested/look.js '${JSON.stringify(requests)}'`;
  const { stdout, stderr, status } = await l1.run(command, requests.length * GUEST_TIMEOUT_MS);
  t.equal(status, 0, stderr.toString());
  const lines = stdout
    .toString()
    .split('\n')
    .filter((line) => line !== '');
  return lines.map((line) => JSON.parse(line) as LookLine);
}

function check(t: Test, spec: Partial<LabSpec>, event: LookEvent): void {
  if (event.kind === 'guest') checkGuest(t, event);
  else if (event.kind === 'look') checkLook(t, spec, event);
  else if (event.kind === 'refusal') checkRefusal(t, event);
  else if (event.kind === 'paused') checkPaused(t, event);
  else if (event.kind === 'rescue') checkRescue(t, event);
  else if (event.kind === 'command') checkCommand(t, event);
  else t.fail(event.message);
}

function checkGuest(t: Test, { bootMs, clocksource }: GuestUp): void {
  t.equal(clocksource, 'kvm-clock\n');
  t.comment(`L2 boots in ${bootMs.toFixed(0)} ms`);
}

function checkLook(
  t: Test,
  spec: Partial<LabSpec>,
  { engine, before, answers, after, milliseconds, retries }: Look,
): void {
  const times = Object.entries(milliseconds).map(([name, value]) => `${name} ${value.toFixed(1)}`);
  t.comment(`engine ${engine}: ${times.join(', ')} ms, ${retries} retries`);
  t.equal(answers.engine, engine);
  t.equal(answers.passwd, before.passwd);
  t.equal(answers.tree, before.tree);
  t.equal(answers.files, before.files);
  t.equal(`${answers.uname.join(' ')} GNU/Linux\n`, before.uname);
  t.equal(answers.pti, spec.pti);
  t.equal(answers.vcpus, spec.vcpus);
  checkUptime(t, before, answers, after);
  checkProcesses(t, before, answers, after);
}

function checkUptime(t: Test, before: Truth, answers: Answers, after: Truth): void {
  const [earliest, told, latest] = [before, answers, after].map(({ uptime }) => Number.parseFloat(uptime));
  t.ok(Number(told) >= Number(earliest) - CLOCK_LAG_S, `up for ${told} s, not less than ${earliest}`);
  t.ok(Number(told) <= Number(latest), `up for ${told} s, not more than ${latest}`);
}

/** What was there before and after must be listed as the guest lists it; nothing that it never had may be. */
function checkProcesses(t: Test, before: Truth, answers: Answers, after: Truth): void {
  const users = new Map(
    before.passwd
      .trim()
      .split('\n')
      .map((line) => [line.split(':')[2], line.split(':')[0]]),
  );
  const [earlier, later] = [before, after].map(({ ps }) => linesByPid(ps)) as [Lines, Lines];
  const told = new Map(answers.processes.map((process) => [process.pid, lineOf(process, users)]));
  const lasting = [...earlier].filter(([pid, line]) => later.get(pid) === line);
  t.ok(lasting.length > 30, `${lasting.length} processes stay`);
  for (const [pid, line] of lasting) {
    if (isWorker(line)) t.ok(told.has(pid), line);
    else t.equal(told.get(pid), line);
  }
  for (const [pid, line] of told) {
    if (!isWorker(line)) t.ok(earlier.has(pid) || later.has(pid), `the guest has ${pid} ${line}`);
  }
}

type Lines = Map<number, string>;
type AnsweredProcess = Answers['processes'][number];

/** Kernel workers come and go, and their names change with their work. */
function isWorker(line: string): boolean {
  return / \[kworker\//.test(line);
}

/** Without the width of columns. */
function linesByPid(ps: string): Lines {
  const lines = ps.trim().split('\n').slice(1);
  return new Map(lines.map((line) => [Number.parseInt(line, 10), line.trim().replace(/\s+/g, ' ')]));
}

function lineOf(process: AnsweredProcess, users: ReadonlyMap<string | undefined, string | undefined>): string {
  const { pid, ppid, uid } = process;
  return `${pid} ${ppid} ${users.get(String(uid))} ${commandOf(process)}`.replace(/ +/g, ' ').trim();
}

/** As busybox prints it: read_cmdline in its libbb/procps.c, which cuts names after 15 bytes. */
function commandOf({ comm, args }: AnsweredProcess): string {
  const name = comm.slice(0, 15);
  if (args.length === 0) return `[${name}]`;
  const program = args[0]?.replace(/^.*\//, '').replace(/^-/, '') ?? '';
  return `${program.startsWith(name) ? '' : `{${name}} `}${args.join(' ')}`;
}

/** An engine that is not there is a failure of its part, said plainly. */
function checkRefusal(t: Test, { engine, code, message }: Refusal): void {
  t.fail(`engine ${engine} does not work in L1: ${code}: ${message}`);
}

function checkPaused(t: Test, { processes, changed, runState }: PausedLook): void {
  t.ok(processes > 30, 'a paused guest answers');
  t.equal(changed, 0, 'bytes of a paused guest changed');
  t.equal(runState, 'paused', 'a paused guest stays so');
}

function checkRescue(t: Test, { stateHeld, stateAfter, milliseconds }: Rescue): void {
  t.equal(stateHeld, 'paused');
  t.equal(stateAfter, 'running', 'the watchdog lets the guest run');
  t.comment(`the guest ran again ${milliseconds.toFixed(0)} ms after its penumbra was killed`);
}

function checkCommand(t: Test, { status, lines, errors, milliseconds }: CommandRun): void {
  t.equal(status, 0, errors);
  t.ok(lines > 30, `${lines} lines`);
  t.comment(`penumbra ps, the whole command: ${milliseconds.toFixed(0)} ms`);
}
