import { PenumbraError } from '../errors.js';
import { type Accounts, accountsInShadow } from '../inspect/accounts.js';
import {
  describeProcesses,
  guessFrom,
  type ProcessGuess,
  type ProcessSample,
  sampleProcesses,
} from '../inspect/processes.js';
import type { Process } from '../inspect/records.js';
import type { Kernel, Step } from '../kernel/kernel.js';
import { onlineCpus, perCpuBase, possibleCpus } from '../kernel/perCpu.js';
import { recogniseKernel } from '../kernel/recognise.js';
import { Tasks } from '../kernel/tasks.js';
import type { Borrowed } from '../shadow/recipe.js';
import { type SessionCounts, ShadowSession } from '../shadow/session.js';
import type { Shadow } from '../shadow/shadow.js';
import { LiveTarget } from '../target/live.js';

export type EngineName = 'auto' | 'kvm' | 'unicorn' | 'qemu';

export interface AttachOptions {
  /** path of the guest's QMP socket */
  qmp?: string;
  /** name (QEMU's -name) or pid of the guest; without `qmp` and `guest` the only one of this host is taken */
  guest?: string;
  engine?: EngineName;
  /** pid, in the guest, of the process whose credentials, root and namespaces calls have; 1 unless given */
  as?: number;
  /** milliseconds that one call may take; 1000 unless given */
  callTimeout?: number;
  /** instructions that one call may take; none unless given, and slower when given */
  instructionLimit?: number;
  signal?: AbortSignal;
}

export interface GuestInfo {
  name: string;
  pid: number;
  /** QEMU's run state as found */
  state: string;
  kernel: { release: string; banner: string; slide: bigint; pti: boolean; pageTableLevels: number };
  vcpus: number;
  onlineCpus: number;
  ram: { gpa: bigint; size: bigint; kind: string; name: string }[];
  engine: string;
  /** why this engine was taken */
  engineReason: string;
  borrowed: { pid: number; comm: Buffer };
  steps: readonly Step[];
}

/**
 * One guest, attached. Everything that needs the guest to stand still is done in turn, and the guest runs in between.
 */
export class Guest implements AsyncDisposable {
  readonly #target: LiveTarget;
  readonly #session: ShadowSession;
  readonly #steps: readonly Step[];
  readonly #borrowed: Borrowed & { comm: Buffer };
  /** the processes there were the last time */
  #guess: ProcessGuess | undefined;
  readonly kernel: Kernel;

  private constructor(
    target: LiveTarget,
    kernel: Kernel,
    session: ShadowSession,
    borrowed: Borrowed & { comm: Buffer },
    steps: readonly Step[],
  ) {
    this.#target = target;
    this.kernel = kernel;
    this.#session = session;
    this.#borrowed = borrowed;
    this.#steps = steps;
  }

  /**
   * Finds, locks and recognises a guest and makes its shadow ready. On failure the guest is left as it was found.
   *
   * @throws PenumbraError see LiveTarget.open, recogniseKernel; NO_TASK when `as` names no process; UNSUPPORTED for an
   *   engine that is not there
   */
  static async attach(options: AttachOptions = {}): Promise<Guest> {
    const steps: Step[] = [];
    requireEngine(options.engine ?? 'auto');
    options.signal?.throwIfAborted();
    const choice = { ...(options.qmp && { qmp: options.qmp }), ...(options.guest && { guest: options.guest }) };
    const target = await timed(steps, 'attach', () => LiveTarget.open(choice));
    try {
      const kernel = await timed(steps, 'kernel', async () =>
        recogniseKernel(target.memory, (root, levels) => target.memory.openVirtual(root, levels), target.vcpus),
      );
      const borrowed = await timed(steps, 'task', async () => findBorrowed(kernel, options.as ?? 1));
      const bases = possibleCpus(kernel).map((cpu) => perCpuBase(kernel, cpu));
      const session = await timed(steps, 'engine', () =>
        ShadowSession.open(target.native, kernel, bases, borrowed, target.scratchGpa, options),
      );
      kernel.remember();
      return new Guest(target, kernel, session, borrowed, steps);
    } catch (error) {
      await target.close();
      throw error;
    }
  }

  get name(): string {
    return this.#target.name;
  }

  /** of the QEMU process */
  get pid(): number {
    return this.#target.qemu.pid;
  }

  /** Stops, retries and standstill so far. */
  get counts(): Readonly<SessionCounts> {
    return this.#session.counts;
  }

  async info(): Promise<GuestInfo> {
    const { kernel } = this;
    return {
      name: this.name,
      pid: this.pid,
      state: this.#target.foundState,
      kernel: {
        release: kernel.release,
        banner: kernel.banner,
        slide: kernel.slide,
        pti: kernel.pti,
        pageTableLevels: kernel.levels,
      },
      vcpus: this.#target.vcpus.length,
      onlineCpus: onlineCpus(kernel).length,
      ram: this.#target.layout.map(({ gpa, size, kind, name }) => ({ gpa, size, kind, name })),
      engine: (await this.#session.statistics()).engine,
      engineReason: 'the engine that works on every host',
      borrowed: { pid: this.#borrowed.pid, comm: this.#borrowed.comm },
      steps: [...this.#steps, ...kernel.steps.map(({ name, milliseconds }) => ({ name: `kernel: ${name}`, milliseconds }))],
    };
  }

  /**
   * Stops the guest, runs `job` in a shadow of that instant and lets the guest run on. `job` may run again, in a new
   * shadow, when the guest was stopped in a moment that cannot be used: it must not have effects of its own before it
   * is done.
   */
  async use<Answer>(job: (shadow: Shadow) => Promise<Answer>, signal?: AbortSignal): Promise<Answer> {
    return this.#session.use(job, signal);
  }

  /** A shadow that stays open, with the guest standing still, until it is disposed of. */
  async shadow(): Promise<Shadow & AsyncDisposable> {
    return this.#session.hold();
  }

  /**
   * Runs `job` over the running guest and drops what comes of it: the engine has then translated the code that `job`
   * needs, and the guest stands still for a shorter time when it is run in earnest.
   */
  async rehearse(job: (shadow: Shadow) => Promise<unknown>): Promise<void> {
    await this.#session.rehearse(job);
  }

  /** What stopping, reading the registers and resuming cost by themselves, in ms: what a shadow's cost is compared with. */
  async measureStop(): Promise<{ stop: number; registers: number; resume: number }> {
    return this.#session.measureStop();
  }

  /** The engine, the calls made so far and the pages that are private now. */
  async statistics(): Promise<{ engine: string; calls: number; privatePages: number }> {
    return this.#session.statistics();
  }

  /** All processes by pid. The first call of a session rehearses, so that the guest need not stand still for it as long. */
  async processes(): Promise<Process[]> {
    return (await this.#processesWith(async () => undefined)).processes;
  }

  /** The same with the names of users and groups, all of one stop. */
  async processesAndAccounts(): Promise<{ processes: Process[]; accounts: Accounts }> {
    const { processes, also } = await this.#processesWith(accountsInShadow);
    return { processes, accounts: also };
  }

  async #processesWith<Also>(ask: (shadow: Shadow) => Promise<Also>): Promise<{ processes: Process[]; also: Also }> {
    const job = async (shadow: Shadow): Promise<{ sample: ProcessSample; also: Also }> => {
      const sample = await sampleProcesses(shadow, this.#guess ?? new Map());
      return { sample, also: await ask(shadow) };
    };
    if (this.#guess === undefined) {
      await this.rehearse(async (shadow) => this.#foresee(describeProcesses((await job(shadow)).sample)));
    }
    const { sample, also } = await this.use(job);
    const processes = describeProcesses(sample);
    this.#foresee(processes);
    return { processes, also };
  }

  #foresee(processes: readonly Process[]): void {
    this.#guess = guessFrom(processes);
  }

  /** Detaches; the guest is left in the run state that was found. May be called twice. */
  async close(): Promise<void> {
    await this.#target.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function requireEngine(engine: EngineName): void {
  if (engine === 'auto' || engine === 'unicorn') return;
  throw new PenumbraError('UNSUPPORTED', `engine ${engine} is not there yet (take unicorn)`);
}

function findBorrowed(kernel: Kernel, pid: number): Borrowed & { comm: Buffer } {
  const task = new Tasks(kernel).find(pid);
  if (task === undefined) throw new PenumbraError('NO_TASK', `the guest has no process ${pid}`);
  return { task: task.address, pid, comm: task.comm };
}

async function timed<Result>(steps: Step[], name: string, run: () => Promise<Result>): Promise<Result> {
  const begin = performance.now();
  const result = await run();
  steps.push({ name, milliseconds: performance.now() - begin });
  return result;
}
