import type { NativeBatchResult, StopClass } from '../binding.js';
import type { Kernel } from '../kernel/kernel.js';
import { type BatchStep, decodeBatch } from './batch.js';
import { CallError } from './failure.js';
import type { NativeStepResult } from './nativeCall.js';
import { syscallTable } from './syscallTable.js';

export interface BatchOptions {
  /** leaves it to the caller to look at the answers' `blocked` */
  mayBlock?: boolean;
}

/** What the steps answered. @throws CallError when one of them did not return, or would have slept and may not */
export function answersOf(
  steps: readonly BatchStep[],
  result: NativeBatchResult,
  { mayBlock = false }: BatchOptions,
  stopClass: StopClass,
  kernel: Kernel,
): NativeStepResult[] {
  if (result.failure !== undefined) {
    throw new CallError(result.failure, nameOf(steps[result.values.length]), stopClass, kernel);
  }
  const [blocked] = result.blocked;
  if (blocked !== undefined && !mayBlock) {
    const failure = {
      code: 'WOULD_BLOCK',
      message: 'the call would sleep',
      address: 0n,
      callers: new BigUint64Array(),
    };
    throw new CallError(failure, nameOf(steps[blocked]), stopClass, kernel);
  }
  return decodeBatch(steps, result);
}

function nameOf(step: BatchStep | undefined): string {
  if (step === undefined || step.kind === 'function') return 'function';
  return syscallTable().find(Number(step.nr))?.name ?? `syscall ${step.nr}`;
}
