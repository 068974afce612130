/**
 * Runs in L1: what penumbra does on a host that grants it less and less. No right to trace QEMU (Yama), a /dev/kvm that
 * is closed, a KVM without capabilities. Reports in one line of JSON (LesserHostReport). Leaves L1 with
 * kernel.yama.ptrace_scope at 3, which only another boot changes.
 *
 *     node dist/test/lab/nested/lesserHost.js /lib/lessKvm.so
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, existsSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { AttachOptions } from '../../../src/index.js';
import { findEmulator } from '../../../src/lab/artefacts.js';
import { LabGuest } from '../../../src/lab/index.js';
import type { Attempt, AttemptRequest } from '../attempts.js';
import { TruthMonitor } from '../truthMonitor.js';
import type { EngineAttempts, LesserHostReport } from './report.js';

const CALL_TIMEOUT_MS = 60_000;
const USER = 65534;
const AS_USER = `setpriv --reuid=${USER} --regid=${USER} --clear-groups --pdeathsig=KILL`.split(' ');
const SCOPE = '/proc/sys/kernel/yama/ptrace_scope';
const KVM = '/dev/kvm';
const TOOL = '/bin/true';
/** What native/engine/kvm_device.cc asks for, with answers that are too little: include/uapi/linux/kvm.h. */
const TOO_LITTLE = [
  { capability: 3, value: 0 },
  { capability: 16, value: 0 },
  { capability: 7, value: 0 },
  { capability: 41, value: 0 },
  { capability: 23, value: 0 },
  { capability: 136, value: -22 },
  { capability: 74, value: 0 },
  { capability: 74, value: 2 },
];
/** SMEP, which the guest's kernel uses: a bit of EBX of leaf 7. */
const FEATURE = '7 1 7';

const attemptsProgram = fileURLToPath(new URL('../attempts.js', import.meta.url));

/** A process that attaches, with rights of its own. */
class Attempts implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;

  constructor(within: readonly string[], environment: NodeJS.ProcessEnv) {
    const [program = '', ...words] = [...within, process.execPath, attemptsProgram];
    const env = { ...process.env, ...environment };
    this.#child = spawn(program, words, { stdio: ['pipe', 'pipe', 'inherit'], env });
    this.#answers = createInterface({ input: this.#child.stdout as NodeJS.ReadableStream })[Symbol.asyncIterator]();
  }

  async attempt(options: AttachOptions, more: Omit<AttemptRequest, 'options'> = {}): Promise<Attempt> {
    const request: AttemptRequest = { options: { callTimeout: CALL_TIMEOUT_MS, ...options }, ...more };
    this.#child.stdin?.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#answers.next();
    if (done) throw new Error('a process that attaches ended');
    return JSON.parse(value) as Attempt;
  }

  async bothEngines(options: AttachOptions, more: Omit<AttemptRequest, 'options'> = {}): Promise<EngineAttempts> {
    const kvm = await this.attempt({ ...options, engine: 'kvm' }, more);
    return { kvm, auto: await this.attempt({ ...options, engine: 'auto' }, more) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.stdin?.end();
    await ended;
  }
}

async function lesserHost(library: string): Promise<LesserHostReport> {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  chownSync(folder, USER, USER);
  chmodSync(KVM, 0o666);
  // The kernel that boots in half the time of the others.
  await using lab = await LabGuest.start(
    { accelerator: 'kvm', cpu: 'max', memoryMiB: 128, kernel: '5.10' },
    { folder, within: AS_USER },
  );
  const begin = performance.now();
  await using secluded = await switchedOff(join(folder, 'secluded.sock'));
  const shared = { qmp: lab.qmp, engine: 'unicorn' } as const;
  const unshared = { qmp: secluded.qmp };

  await using user = new Attempts(AS_USER, { HOME: folder });
  const scopes: LesserHostReport['scopes'] = [];
  for (const scope of [0, 1, 2]) {
    writeFileSync(SCOPE, String(scope));
    scopes.push({ scope, shared: await user.attempt(shared, { tool: TOOL }), private: await user.attempt(unshared) });
  }
  // QEMU has it open already.
  chmodSync(KVM, 0o600);
  const closedKvm = await user.bothEngines({ qmp: lab.qmp });

  await using root = new Attempts([], { LD_PRELOAD: library, XDG_CACHE_HOME: folder });
  const capabilities: LesserHostReport['capabilities'] = [];
  for (const less of TOO_LITTLE) {
    const environment = { LESS_KVM_CAPABILITY: `${less.capability} ${less.value}` };
    capabilities.push({ ...less, ...(await root.bothEngines({}, { environment, engineOnly: true })) });
  }
  const environment = { LESS_KVM_CAPABILITY: '', LESS_KVM_FEATURE: FEATURE };
  const feature = await root.attempt({ qmp: lab.qmp, engine: 'kvm' }, { environment });

  const session = await root.attempt(shared, { meanwhile: { path: SCOPE, text: '3' } });
  const nobodyTraces = {
    session,
    shared: await root.attempt(shared, { tool: TOOL }),
    private: await root.attempt(unshared),
  };
  const states = [await stateOf(lab.files.truth), await stateOf(secluded.qmp)];
  const milliseconds = performance.now() - begin;
  return { release: lab.release, scopes, closedKvm, capabilities, feature, nobodyTraces, states, milliseconds };
}

/** A guest with private RAM and no kernel: whether its RAM may be read shows before a kernel is looked for. */
async function switchedOff(qmp: string): Promise<AsyncDisposable & { qmp: string }> {
  const words = '-name secluded -nodefaults -no-user-config -display none -machine pc -accel kvm -m 32M -S';
  const monitor = ['-qmp', `unix:${qmp},server=on,wait=off`];
  const [program = '', ...rest] = [...AS_USER, findEmulator('system'), ...words.split(' '), ...monitor];
  const child = spawn(program, rest, { stdio: 'ignore' });
  const ended = once(child, 'exit');
  while (!existsSync(qmp)) await sleep(5);
  const end = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  return { qmp, [Symbol.asyncDispose]: end };
}

async function stateOf(socket: string): Promise<string> {
  const monitor = await TruthMonitor.connect(socket);
  const { status } = (await monitor.execute('query-status')) as { status: string };
  monitor.close();
  return status;
}

process.stdout.write(`${JSON.stringify(await lesserHost(process.argv[2] as string))}\n`);
