import type { ShadowStatistics } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { type Accounts, accountsInShadow, accountsQuestion } from '../inspect/accounts.js';
import { type StatOptions, statFile } from '../inspect/fileStatus.js';
import { type FindOptions, type FindReport, findFiles } from '../inspect/findFiles.js';
import { type DirectoryReport, type ListOptions, listDirectory } from '../inspect/listDirectory.js';
import type { Question } from '../inspect/moment.js';
import { describeProcesses, type ProcessSample } from '../inspect/processes.js';
import { sampleProcessFiles } from '../inspect/processFiles.js';
import { type ProcessWalk, processWalk, walkQuestion } from '../inspect/processWalk.js';
import { readWholeFile } from '../inspect/readFile.js';
import type { NamedFile, Process, SystemName } from '../inspect/records.js';
import { uname } from '../inspect/uname.js';
import type { Kernel, Step } from '../kernel/kernel.js';
import { onlineCpus, perCpuBase, possibleCpus } from '../kernel/perCpu.js';
import { type AddressSpace, kernelMemory, processMemory } from '../kernel/processMemory.js';
import { recogniseKernel } from '../kernel/recognise.js';
import { Tasks } from '../kernel/tasks.js';
import { type RunOptions, type RunResult, redirectRequest, runResult } from '../redirect/run.js';
import { CallError } from '../shadow/failure.js';
import type { Borrowed } from '../shadow/recipe.js';
import { type SessionCounts, ShadowSession } from '../shadow/session.js';
import type { Shadow } from '../shadow/shadow.js';
import { StepList } from '../shadow/stepList.js';
import { LiveTarget } from '../target/live.js';
import { chooseEngine, type EngineChoice, type EngineName, withEngine } from './engine.js';

export type { EngineName };

export interface AttachOptions {
  /** path of the guest's QMP socket */
  qmp?: string;
  /** name (QEMU's -name) or pid of the guest; without `qmp` and `guest` the only one of this host is taken */
  guest?: string;
  /** `auto`, the default, takes KVM where there is hardware behind it, and Unicorn elsewhere */
  engine?: EngineName;
  /** path of KVM's device; /dev/kvm unless given */
  kvmDevice?: string;
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
  /** how the guest is stopped for `use` and its registers are read */
  stopWay: 'gdbstub' | 'kvm_run';
  stopWayReason: string;
  borrowed: { pid: number; comm: Buffer };
  steps: readonly Step[];
}

/** More than a shadow's own memory takes above the guest's, in bytes. */
const scratchRoom = 1n << 30n;

/** How often a running guest is looked at anew before it is said to have no kernel. */
const mostLooks = 3;

/**
 * One guest, attached. Everything that needs the guest to stand still is done in turn, and the guest runs in between.
 */
export class Guest implements AsyncDisposable {
  readonly #target: LiveTarget;
  readonly #session: ShadowSession;
  readonly #engine: EngineChoice;
  readonly #steps: readonly Step[];
  readonly #borrowed: Borrowed & { comm: Buffer };
  /** how all processes are listed by one step, where that gives what this session is to see */
  readonly #walk: ProcessWalk | undefined;
  #hasListed = false;
  readonly kernel: Kernel;

  private constructor(
    target: LiveTarget,
    kernel: Kernel,
    session: ShadowSession,
    engine: EngineChoice,
    borrowed: Borrowed & { comm: Buffer },
    steps: readonly Step[],
    walk: ProcessWalk | undefined,
  ) {
    this.#walk = walk;
    this.#target = target;
    this.kernel = kernel;
    this.#session = session;
    this.#engine = engine;
    this.#borrowed = borrowed;
    this.#steps = steps;
  }

  /**
   * Finds, locks and recognises a guest and makes its shadow ready. On failure the guest is left as it was found.
   *
   * @throws PenumbraError see LiveTarget.open, recogniseKernel; NO_TASK when `as` names no process; UNSUPPORTED and
   *   PERMISSION for a certain engine that cannot be had
   */
  static async attach(options: AttachOptions = {}): Promise<Guest> {
    const choice = { ...(options.qmp && { qmp: options.qmp }), ...(options.guest && { guest: options.guest }) };
    for (let looks = 1; ; looks += 1) {
      const steps: Step[] = [];
      options.signal?.throwIfAborted();
      const target = await timed(steps, 'attach', () => LiveTarget.open(choice));
      try {
        return await Guest.#over(target, steps, options);
      } catch (error) {
        await target.close();
        if (looks === mostLooks || target.foundState !== 'running' || !mayPass(error)) throw error;
      }
    }
  }

  static async #over(target: LiveTarget, steps: Step[], options: AttachOptions): Promise<Guest> {
    const wanted = options.engine ?? 'auto';
    const kernel = await timed(steps, 'kernel', async () =>
      recogniseKernel(target.memory, (root, levels) => target.memory.openVirtual(root, levels), target.vcpus),
    );
    const borrowed = await timed(steps, 'task', async () => findBorrowed(kernel, options.as ?? 1));
    const bases = possibleCpus(kernel).map((cpu) => perCpuBase(kernel, cpu));
    const needs = {
      kernel,
      vcpus: target.vcpus,
      topOfMemory: target.scratchGpa + scratchRoom,
      instructionLimit: options.instructionLimit ?? 0,
    };
    const chosen = await timed(steps, 'choose engine', () => chooseEngine(wanted, needs, options.kvmDevice));
    const { engine, result: session } = await timed(steps, 'engine', () =>
      withEngine(wanted, chosen, (engine) =>
        ShadowSession.open(target.native, kernel, bases, borrowed, target, engine, options),
      ),
    );
    // A failure shows again in the next use.
    target.onRamEvent = () => void session.followRam().catch(() => undefined);
    const walk = walkFor(kernel, options);
    kernel.remember();
    return new Guest(target, kernel, session, engine, borrowed, steps, walk);
  }

  get name(): string {
    return this.#target.name;
  }

  /** of the QEMU process */
  get pid(): number {
    return this.#target.qemu.pid;
  }

  /**
   * The memory of a process, as the running guest has it at that moment; or the kernel's. Nothing is stopped for it; in
   * `use` it is of the moment in which the guest stands still.
   * @throws PenumbraError NO_TASK when there is no such process
   */
  memory(pid: number | 'kernel'): AddressSpace {
    const open = (root: bigint) => this.#target.memory.openVirtual(root, this.kernel.levels);
    return pid === 'kernel' ? kernelMemory(this.kernel, open) : processMemory(this.kernel, open, pid);
  }

  /** Stops, retries and standstill so far. */
  get counts(): Readonly<SessionCounts> {
    return this.#session.counts;
  }

  async info(): Promise<GuestInfo> {
    const { kernel } = this;
    const { way, reason } = await this.#target.stopWay();
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
      engine: this.#engine.name,
      engineReason: this.#engine.reason,
      stopWay: way,
      stopWayReason: reason,
      borrowed: { pid: this.#borrowed.pid, comm: this.#borrowed.comm },
      steps: [
        ...this.#steps,
        ...kernel.steps.map(({ name, milliseconds }) => ({ name: `kernel: ${name}`, milliseconds })),
      ],
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

  /**
   * Answers one question by a stop of its own, in which only the guest's kernel works. Calls that would sleep fail with
   * what a signal ends them with, mostly EINTR.
   * @throws CallError when a call does not return
   */
  async ask<Answer>(question: Question<Answer>): Promise<Answer> {
    const list = new StepList();
    const read = question(list);
    return read(await this.#session.ask(list.steps, { mayBlock: true }));
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

  /**
   * What stopping, reading the registers and resuming cost by themselves, in ms: what a shadow's cost is compared with.
   * @param short in the way of `use`; otherwise by QEMU's gdbstub, in that of `shadow`
   */
  async measureStop(short = true): Promise<{ stop: number; registers: number; resume: number }> {
    return this.#session.measureStop(short);
  }

  /** The engine, the calls made and the exits taken so far, and the pages that are private now. */
  async statistics(): Promise<ShadowStatistics> {
    return this.#session.statistics();
  }

  /**
   * Runs an unmodified program of this host whose system calls the guest's kernel answers: of one instant, at which the
   * guest stands still until the program ends or `budget` is used up.
   * @param words the program and its arguments
   * @throws PenumbraError NO_TOOL, PERMISSION, UNSUPPORTED, GUEST_GONE when the guest ends before the program does
   */
  async run(words: readonly (string | Buffer)[], options: RunOptions = {}): Promise<RunResult> {
    const request = redirectRequest(
      this.kernel,
      this.#borrowed.task,
      words.map((word) => Buffer.from(word as string)),
      options,
    );
    const signal = AbortSignal.any([this.#target.gone, ...(options.signal === undefined ? [] : [options.signal])]);
    const report = await this.#session.useOnce((shadow) => shadow.redirect(request, signal), signal);
    signal.throwIfAborted();
    return runResult(report);
  }

  /** All processes by pid. The first call of a session rehearses, so that the guest need not stand still for it as long. */
  async processes(): Promise<Process[]> {
    const { processes } = await this.#processesWith(
      () => () => undefined,
      async () => undefined,
    );
    return processes;
  }

  /** The same with the names of users and groups, all of one stop. */
  async processesAndAccounts(): Promise<{ processes: Process[]; accounts: Accounts }> {
    const { processes, also } = await this.#processesWith(accountsQuestion, accountsInShadow);
    return { processes, accounts: also };
  }

  /** A directory, or with `recursive` all below it. @throws PenumbraError GUEST_ERROR when it cannot be listed */
  async list(path: string | Buffer, options: ListOptions = {}): Promise<DirectoryReport> {
    return listDirectory(this, path, options);
  }

  /** The contents of a file. @throws PenumbraError GUEST_ERROR; DEVICE_ACCESS where it is not in the guest's memory */
  async readFile(path: string | Buffer, limit?: number): Promise<Buffer> {
    return readWholeFile(this, path, limit);
  }

  /** What statx(2) says of a file. @throws PenumbraError GUEST_ERROR */
  async stat(path: string | Buffer, options: StatOptions = {}): Promise<NamedFile> {
    return statFile(this, path, options);
  }

  /** Files below a directory, as find(1) chooses them. */
  async find(path: string | Buffer, options: FindOptions = {}): Promise<FindReport> {
    return findFiles(this, path, options);
  }

  async uname(): Promise<SystemName> {
    return uname(this);
  }

  /** @param question what is asked along with the processes; `job` does the same in a shadow, and gets by on its own */
  async #processesWith<Also>(
    question: Question<Also>,
    job: (shadow: Shadow) => Promise<Also>,
  ): Promise<{ processes: Process[]; also: Also }> {
    const walked = this.#walk && withSample(walkQuestion(this.#walk), question);
    const byFiles = async (shadow: Shadow) => ({ sample: await sampleProcessFiles(shadow), also: await job(shadow) });
    if (!this.#hasListed) {
      this.#hasListed = true;
      await this.rehearse(walked === undefined ? byFiles : (shadow) => rehearseQuestion(walked, shadow));
    }
    const { sample, also } = (walked && (await this.#askOrNot(walked))) ?? (await this.use(byFiles));
    return { processes: describeProcesses(sample), also };
  }

  /** Undefined also when something is asked about that is not in the guest's memory. */
  async #askOrNot<Answer>(question: Question<Answer | undefined>): Promise<Answer | undefined> {
    try {
      return await this.ask(question);
    } catch (error) {
      if (error instanceof CallError) return undefined;
      throw error;
    }
  }

  /** Detaches; the guest is left in the run state that was found. May be called twice. */
  async close(): Promise<void> {
    await this.#target.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * The registers are those of one moment, and the guest runs on: a process that has ended meanwhile leaves no page table
 * by which a kernel could be found.
 */
function mayPass(error: unknown): boolean {
  return error instanceof PenumbraError && (error.code === 'NO_KERNEL' || error.code === 'NOT_MAPPED');
}

/** Two questions as one; no answer to the first is none to both. */
function withSample<Also>(
  sampleQuestion: Question<ProcessSample | undefined>,
  question: Question<Also>,
): Question<{ sample: ProcessSample; also: Also } | undefined> {
  return (list) => {
    const readSample = sampleQuestion(list);
    const readAlso = question(list);
    return (results) => {
      const sample = readSample(results);
      return sample && { sample, also: readAlso(results) };
    };
  };
}

async function rehearseQuestion(question: Question<unknown>, shadow: Shadow): Promise<void> {
  const list = new StepList();
  question(list);
  await shadow.batch(list.steps, { mayBlock: true });
}

/** The walk sees all processes there are, and counts as one call: not for who asked for the view or the limits of another. */
function walkFor(kernel: Kernel, { as = 1, instructionLimit = 0 }: AttachOptions): ProcessWalk | undefined {
  return as === 1 && instructionLimit === 0 ? processWalk(kernel) : undefined;
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
