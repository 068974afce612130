import type { EnterReport, NativeGuest, NativeRedirectRequest, NativeRunReport } from '../binding.js';
import { PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import { answersOf, type BatchOptions } from './answers.js';
import { type BatchStep, encodeBatch } from './batch.js';
import type { DecodedResult } from './decodedResult.js';
import { stopClassOf } from './failure.js';
import { marshal } from './marshal.js';
import { NativeArgumentKind, type NativeStepResult } from './nativeCall.js';
import type { SyscallArgument } from './syscallArgument.js';
import { syscallTable } from './syscallTable.js';

/** What one shadow cost, in milliseconds. */
export interface ShadowTimes {
  /** until the guest stood still */
  stop: number;
  /** until its registers were there, from the moment it stood still */
  registers: number;
  /** bringing private pages up to date, done while the registers were on their way */
  refresh: number;
  /** building the context and loading the engine */
  load: number;
}

/**
 * One instant of a guest in which its kernel can be called. While a shadow is open the guest stands still; calls change
 * only the shadow. Made by ShadowSession.
 */
export class Shadow {
  readonly #native: NativeGuest;
  readonly #kernel: Kernel;
  readonly #report: EnterReport;
  #open = true;

  constructor(native: NativeGuest, kernel: Kernel, report: EnterReport) {
    this.#native = native;
    this.#kernel = kernel;
    this.#report = report;
  }

  get times(): ShadowTimes {
    const { stopNs, refreshNs, registersNs, loadNs } = this.#report;
    return {
      stop: stopNs / 1e6,
      registers: (refreshNs + registersNs) / 1e6,
      refresh: refreshNs / 1e6,
      load: loadNs / 1e6,
    };
  }

  /** Where the vCPU was that the shadow runs on. */
  get stopClass(): 'user' | 'idle' | 'kernel' {
    return stopClassOf(this.#report.stopClass);
  }

  get kernel(): Kernel {
    return this.#kernel;
  }

  /**
   * Calls a syscall by name. Strings are passed as NUL-terminated UTF-8, Buffers as they are.
   * @returns the guest kernel's raw answer: a negative value is -errno
   * @throws PenumbraError REFUSED, BAD_ARGUMENT before the call; CallError when it does not return
   */
  async syscall(name: string | number, ...args: SyscallArgument[]): Promise<bigint> {
    return (await this.call(name, ...args)).value;
  }

  /** The same with the contents of the call's buffers, decoded as the syscall table says. */
  async call(name: string | number, ...args: SyscallArgument[]): Promise<DecodedResult> {
    const { step, decode } = marshal(syscallTable(), name, args);
    const [result] = await this.batch([step]);
    return decode(result as NativeStepResult);
  }

  /**
   * Calls a kernel function with up to six integer arguments.
   * @returns RAX
   * @throws PenumbraError NO_SYMBOL, BAD_ARGUMENT; CallError when it does not return
   */
  async callFunction(target: string | bigint, ...args: bigint[]): Promise<bigint> {
    if (args.length > 6) throw new PenumbraError('BAD_ARGUMENT', 'a kernel function takes at most six arguments here');
    const nr = typeof target === 'bigint' ? target : this.#kernel.requireSymbol(target);
    const step: BatchStep = {
      kind: 'function',
      nr,
      args: args.map((value) => ({ kind: NativeArgumentKind.value, value })),
    };
    const [result] = await this.batch([step]);
    return BigInt.asUintN(64, (result as NativeStepResult).value);
  }

  /**
   * Runs steps one after the other without coming back in between; a step that uses the result of a failed one is
   * skipped with the same error.
   * @throws CallError when one of them does not return, and the shadow cannot be used any more then; WOULD_BLOCK when
   *   one would have slept, where the shadow is as good as before if the sleep was one that signals end
   */
  async batch(steps: readonly BatchStep[], options: BatchOptions = {}): Promise<NativeStepResult[]> {
    if (!this.#open) throw new PenumbraError('BAD_ARGUMENT', 'the shadow is closed');
    const result = await this.#native.run(encodeBatch(steps));
    if (result.failure !== undefined) this.#open = false;
    return answersOf(steps, result, options, this.stopClass, this.#kernel);
  }

  /** Runs a tool of the host against this instant; ended when `signal` is aborted. See src/redirect/run.ts. */
  async redirect(request: NativeRedirectRequest, signal?: AbortSignal): Promise<NativeRunReport> {
    if (!this.#open) throw new PenumbraError('BAD_ARGUMENT', 'the shadow is closed');
    const interrupt = (): void => this.#native.interruptRedirect();
    const running = this.#native.redirect(request);
    signal?.addEventListener('abort', interrupt, { once: true });
    if (signal?.aborted) interrupt();
    try {
      return await running;
    } finally {
      signal?.removeEventListener('abort', interrupt);
    }
  }

  /**
   * Reads the shadow's memory, through the borrowed task's page tables unless another root is given.
   * @throws PenumbraError NOT_MAPPED
   */
  async read(address: bigint, length: number, root?: bigint): Promise<Buffer> {
    const bytes = await this.#native.readShadow(address, length, root);
    if (bytes.length < length) throw notMapped(address + BigInt(bytes.length));
    return bytes;
  }

  /**
   * Writes into the shadow, and only there: calls in this shadow see it, the guest never does, nor the next shadow.
   * @throws PenumbraError NOT_MAPPED when not all of it could be written
   */
  async write(address: bigint, bytes: Buffer, root?: bigint): Promise<void> {
    if (!this.#open) throw new PenumbraError('BAD_ARGUMENT', 'the shadow is closed');
    const written = await this.#native.writeShadow(address, bytes, root);
    if (written < bytes.length) throw notMapped(address + BigInt(written));
  }

  /** Called by the session that made the shadow. */
  close(): void {
    this.#open = false;
  }
}

function notMapped(address: bigint): PenumbraError {
  return new PenumbraError('NOT_MAPPED', `no page at guest address 0x${address.toString(16)}`, { address });
}
