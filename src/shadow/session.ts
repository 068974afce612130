import { clearTimeout, setTimeout } from 'node:timers';
import { setTimeout as sleep } from 'node:timers/promises';
import type { EnterReport, NativeAskReport, NativeGuest, ShadowStatistics, StopClass } from '../binding.js';
import { PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import { answersOf, type BatchOptions } from './answers.js';
import { type BatchStep, encodeBatch } from './batch.js';
import { stopClassOf, timeToMoveOn, worthAnotherStop } from './failure.js';
import type { NativeStepResult } from './nativeCall.js';
import { type Borrowed, contextRecipe } from './recipe.js';
import { Shadow } from './shadow.js';

export interface SessionOptions {
  /**
   * milliseconds that one call may take; 1000 unless given, and an eighth of it where the guest was stopped in kernel
   * code. A batch of calls may take thirty times as long.
   */
  callTimeout?: number;
  /** instructions that one call may take; 0, the default, sets no limit and is faster */
  instructionLimit?: number;
  /** private pages that are kept and refreshed by copy */
  keepPages?: number;
  signal?: AbortSignal;
}

/** What the guest's RAM is made of may change while it runs. */
export interface RamSource {
  /** First guest-physical address above all RAM, where memory of the shadow's own is put. */
  readonly scratchGpa: bigint;
  /** Takes over RAM that was plugged or unplugged; with `force` also where no change was reported. True: the shadow is gone. */
  followRam(force?: boolean): Promise<boolean>;
}

/** What executes the calls. */
export interface SessionEngine {
  name: 'kvm' | 'unicorn';
  /** path of KVM's device, for the engine kvm */
  device: string;
}

/** Counts since the session began. A stop is retried when its moment turns out to be unusable. */
export interface SessionCounts {
  stops: number;
  retries: number;
  byClass: Record<StopClass, number>;
  retriesByCode: Record<string, number>;
  /** milliseconds for which the guest stood still, the last time and in all */
  lastStandstill: number;
  totalStandstill: number;
}

const stopTimeout = 10_000;
/** How often a guest is stopped to find it outside of kernel code, and for how many ms at most it runs in between. */
const mostLooks = 30;
const longestPause = 3;
/** ms after which a rehearsal has translated what it is going to */
const longestRehearsal = 150;
/** A rehearsal stops nothing. */
const rehearsal: EnterReport = {
  stopNs: 0,
  refreshNs: 0,
  registersNs: 0,
  loadNs: 0,
  stopClass: 0,
  inKernel: false,
  runsOn: true,
  vcpu: 0,
  privatePages: 0,
};

/**
 * The engine, its private memory and its translations for one guest, kept from shadow to shadow.
 */
export class ShadowSession {
  readonly #native: NativeGuest;
  readonly #kernel: Kernel;
  readonly #ram: RamSource;
  readonly #engine: SessionEngine;
  readonly #perCpuBases: bigint[];
  #borrowed: Borrowed;
  #options: SessionOptions = {};
  #busy: Promise<unknown> = Promise.resolve();
  #hasShadow = false;
  readonly counts: SessionCounts = {
    stops: 0,
    retries: 0,
    byClass: { user: 0, idle: 0, kernel: 0 },
    retriesByCode: {},
    lastStandstill: 0,
    totalStandstill: 0,
  };

  private constructor(
    native: NativeGuest,
    kernel: Kernel,
    perCpuBases: bigint[],
    borrowed: Borrowed,
    ram: RamSource,
    engine: SessionEngine,
  ) {
    this.#native = native;
    this.#kernel = kernel;
    this.#perCpuBases = perCpuBases;
    this.#borrowed = borrowed;
    this.#ram = ram;
    this.#engine = engine;
  }

  /**
   * @throws PenumbraError NO_SYMBOL, NO_MEMBER, NO_BTF, ENGINE; UNSUPPORTED and PERMISSION for an engine that cannot be had
   */
  static async open(
    native: NativeGuest,
    kernel: Kernel,
    perCpuBases: bigint[],
    borrowed: Borrowed,
    ram: RamSource,
    engine: SessionEngine,
    options: SessionOptions = {},
  ): Promise<ShadowSession> {
    const session = new ShadowSession(native, kernel, perCpuBases, borrowed, ram, engine);
    session.#options = options;
    await session.#createShadow();
    return session;
  }

  async configure(options: SessionOptions): Promise<void> {
    this.#options = options;
    await this.#native.setOptions({
      instructionLimit: options.instructionLimit ?? 0,
      timeLimitNs: (options.callTimeout ?? 1000) * 1e6,
      keepPages: options.keepPages ?? 1024,
    });
  }

  /** From now on calls have the credentials, root and namespaces of this task. */
  async borrow(borrowed: Borrowed): Promise<void> {
    this.#borrowed = borrowed;
    await this.#native.borrow(borrowed.task, borrowed.pid);
  }

  /**
   * Stops the guest, runs `job` in a shadow of that instant and lets the guest run on, whatever happens. `job` may run
   * several times, each time in a new shadow, until it meets a moment in which it can be answered.
   */
  async use<Answer>(job: (shadow: Shadow) => Promise<Answer>, signal?: AbortSignal): Promise<Answer> {
    return this.#inTurn(() => this.#retry(() => this.#once(job, () => this.#native.enter(stopTimeout, true)), signal));
  }

  /**
   * For a job that cannot run again: its moment is chosen so that no vCPU is in the middle of kernel code, if one comes
   * soon, since calls fail on what the guest's kernel had locked there. The job may take long: QEMU is told that the
   * guest stands still, so that its clocks do too.
   */
  async useOnce<Answer>(job: (shadow: Shadow) => Promise<Answer>, signal?: AbortSignal): Promise<Answer> {
    return this.#inTurn(() => this.#retry(() => this.#once(job, () => this.#enterQuietly()), signal));
  }

  /**
   * One batch of calls from a stop of its own: they are encoded before it, and their answers are looked at when the guest
   * runs again. The shortest way to look at a guest.
   * @throws CallError as Shadow.batch
   */
  async ask(
    steps: readonly BatchStep[],
    options: BatchOptions = {},
    signal?: AbortSignal,
  ): Promise<NativeStepResult[]> {
    const encoded = encodeBatch(steps);
    return this.#inTurn(() => this.#retry(() => this.#askOnce(steps, encoded, options), signal));
  }

  /**
   * A shadow that stays open until it is disposed of; the guest stands still meanwhile.
   */
  async hold(): Promise<Shadow & AsyncDisposable> {
    let finish: () => void = () => undefined;
    const finished = new Promise<void>((resolve) => {
      finish = resolve;
    });
    return new Promise((resolve, reject) => {
      const turn = this.useOnce(async (shadow) => {
        const dispose = async (): Promise<void> => {
          finish();
          await turn;
        };
        resolve(Object.assign(shadow, { [Symbol.asyncDispose]: dispose }));
        await finished;
      });
      turn.catch(reject);
    });
  }

  /**
   * Runs `job` over the running guest, so that the code it needs is translated before the guest is stopped for it. The
   * guest changes under it: what it answers, or how it fails, means nothing and is dropped.
   */
  async rehearse(job: (shadow: Shadow) => Promise<unknown>): Promise<void> {
    await this.#inTurn(async () => {
      const shadow = new Shadow(this.#native, this.#kernel, rehearsal);
      try {
        await this.#native.beginRehearsal();
        const enough = setTimeout(() => shadow.close(), longestRehearsal);
        await job(shadow).finally(() => clearTimeout(enough));
      } catch (error) {
        if (!(error instanceof PenumbraError)) throw error;
      } finally {
        shadow.close();
        await this.#native.endRehearsal();
      }
    });
  }

  /** What stopping, reading the registers and resuming cost by themselves, in ms. */
  async measureStop(short: boolean): Promise<{ stop: number; registers: number; resume: number }> {
    const { stopNs, registersNs, resumeNs } = await this.#native.measureStop(stopTimeout, short);
    return { stop: stopNs / 1e6, registers: registersNs / 1e6, resume: resumeNs / 1e6 };
  }

  async statistics(): Promise<ShadowStatistics> {
    return this.#native.statistics();
  }

  /** Makes the shadow anew where the guest's RAM is another than before. */
  async followRam(): Promise<void> {
    await this.#inTurn(() => this.#follow(false));
  }

  async #createShadow(): Promise<void> {
    const recipe = contextRecipe(this.#kernel, this.#perCpuBases, this.#borrowed);
    await this.#native.createShadow(recipe, this.#ram.scratchGpa, this.#engine);
    await this.configure(this.#options);
    this.#hasShadow = true;
  }

  async #follow(force: boolean): Promise<void> {
    if (await this.#ram.followRam(force)) this.#hasShadow = false;
    if (!this.#hasShadow) await this.#createShadow();
  }

  /** One at a time: a guest has one memory to run calls in. */
  async #inTurn<Answer>(run: () => Promise<Answer>): Promise<Answer> {
    const turn = this.#busy.then(run, run);
    this.#busy = turn.catch(() => undefined);
    return turn;
  }

  async #retry<Answer>(look: () => Promise<Answer>, signal: AbortSignal | undefined): Promise<Answer> {
    for (let attempt = 0; ; attempt += 1) {
      signal?.throwIfAborted();
      try {
        return await look();
      } catch (error) {
        if (!worthAnotherStop(error, attempt)) throw error;
        // What looks like a device may be memory that was plugged a moment ago.
        if (attempt === 0 && (error as PenumbraError).code === 'DEVICE_ACCESS') await this.#follow(true);
        this.#countRetry(error as PenumbraError);
        await sleep(timeToMoveOn(attempt));
      }
    }
  }

  async #once<Answer>(job: (shadow: Shadow) => Promise<Answer>, enter: () => Promise<EnterReport>): Promise<Answer> {
    await this.#follow(false);
    this.counts.stops += 1;
    let shadow: Shadow | undefined;
    try {
      shadow = new Shadow(this.#native, this.#kernel, await enter());
      this.counts.byClass[shadow.stopClass] += 1;
      return await job(shadow);
    } finally {
      shadow?.close();
      this.#countStandstill(await this.#native.leave());
    }
  }

  /** Stops the guest for long, anew while it is found in the middle of kernel code. */
  async #enterQuietly(): Promise<EnterReport> {
    for (let look = 1; ; look += 1) {
      const report = await this.#native.enter(stopTimeout, false);
      if (!report.inKernel || !report.runsOn || look === mostLooks) return report;
      this.#countStandstill(await this.#native.leave());
      this.counts.byClass[stopClassOf(report.stopClass)] += 1;
      this.counts.retries += 1;
      // Not in step with the guest's own ticks.
      await sleep(1 + Math.random() * longestPause);
      this.counts.stops += 1;
    }
  }

  async #askOnce(steps: readonly BatchStep[], encoded: Buffer, options: BatchOptions): Promise<NativeStepResult[]> {
    await this.#follow(false);
    this.counts.stops += 1;
    let report: NativeAskReport;
    try {
      report = await this.#native.ask(stopTimeout, encoded);
    } catch (error) {
      this.#countStandstill(await this.#native.leave());
      throw error;
    }
    const stopClass = stopClassOf(report.entered.stopClass);
    this.counts.byClass[stopClass] += 1;
    this.#countStandstill(report.standstillNs);
    return answersOf(steps, report.result, options, stopClass, this.#kernel);
  }

  #countStandstill(nanoseconds: number): void {
    this.counts.lastStandstill = nanoseconds / 1e6;
    this.counts.totalStandstill += this.counts.lastStandstill;
  }

  #countRetry(error: PenumbraError): void {
    this.counts.retries += 1;
    this.counts.retriesByCode[error.code] = (this.counts.retriesByCode[error.code] ?? 0) + 1;
  }
}
