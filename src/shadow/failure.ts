import { type NativeFailure, type StopClass, stopClasses } from '../binding.js';
import { type ErrorCode, PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';

/** A call in a shadow that ended otherwise than by returning. `address` is where the guest's code stood. */
export class CallError extends PenumbraError {
  /** name of the syscall, or `function` */
  readonly call: string;
  readonly stopClass: StopClass;
  /** functions of the guest kernel whose return addresses were on the stack, innermost first; some may be stale */
  readonly callers: readonly string[];

  constructor(failure: NativeFailure, call: string, stopClass: StopClass, kernel: Kernel) {
    const message = `${call}: ${failure.message}${place(failure.address, kernel)}`;
    super(failure.code as ErrorCode, message, { address: failure.address });
    this.call = call;
    this.stopClass = stopClass;
    this.callers = Array.from(
      failure.callers,
      (address) => kernel.symbolAt(address)?.name ?? `0x${address.toString(16)}`,
    );
  }
}

export function stopClassOf(index: number): StopClass {
  return stopClasses[index] ?? 'kernel';
}

/**
 * Whether another stop may well end better: always where a lock was held, and where the guest was stopped in the
 * middle of kernel code, whose half-done work the call may have met. `attempt` counts from 0.
 */
export function worthAnotherStop(error: unknown, attempt: number): boolean {
  if (!(error instanceof PenumbraError)) return false;
  if (error.code === 'LOCKED') return attempt < 100;
  const metByChance: readonly ErrorCode[] = [
    'WOULD_BLOCK',
    'WATCHDOG',
    'GUEST_FAULT',
    'GUEST_BUG',
    'CORRUPT',
    'DEVICE_ACCESS',
  ];
  if (!metByChance.includes(error.code)) return false;
  // Another vCPU may have been in the kernel while the one taken was not.
  const limit = error instanceof CallError && error.stopClass !== 'kernel' ? 6 : 20;
  return attempt < limit;
}

/**
 * For how many ms the guest runs before it is stopped once more. Longer each time: on a busy host its vCPU may not have
 * had a turn at all in the first ones.
 */
export function timeToMoveOn(attempt: number): number {
  return Math.min(40, 4 ** attempt);
}

function place(address: bigint, kernel: Kernel): string {
  const symbol = kernel.symbolAt(address);
  return symbol === undefined ? '' : `, in ${symbol.name}`;
}
