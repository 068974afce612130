import type { BatchArgument, BatchStep } from './batch.js';
import { NativeArgumentKind, type NativeStepResult } from './nativeCall.js';
import { syscallTable } from './syscallTable.js';

/** The result of an earlier step of the same list. */
export interface StepReference {
  step: number;
}

export type Operand = number | bigint | StepReference;

/**
 * Builds a batch of syscalls. Each method adds steps and gives the index under which the answer will be found; a step
 * that uses the result of a failed one fails with the same error.
 */
export class StepList {
  readonly steps: BatchStep[] = [];

  /** openat(2). @returns a reference to the file descriptor */
  open(directory: Operand, path: Buffer | string, flags: number): StepReference {
    return { step: this.add('openat', value(directory), pathArgument(path), value(flags), value(0)) };
  }

  close(fd: Operand): void {
    this.add('close', value(fd));
  }

  /** One read(2) of up to `size` bytes: enough where the kernel gives a file in one piece. */
  readOnce(fd: Operand, size: number): number {
    return this.add('read', value(fd), { ...out(size), lengthIsResult: true }, value(size));
  }

  /** read(2) until the end of the file or `limit` bytes, in pieces of `size`. */
  readAll(fd: Operand, size: number, limit: number): number {
    const step = this.readOnce(fd, size);
    (this.steps[step] as BatchStep).repeatUntil = limit;
    return step;
  }

  /** getdents64(2) until the end of the directory or `limit` bytes. */
  readDirectory(fd: Operand, limit: number): number {
    const size = 32768;
    const step = this.add('getdents64', value(fd), { ...out(size), lengthIsResult: true }, value(size));
    (this.steps[step] as BatchStep).repeatUntil = limit;
    return step;
  }

  /** newfstatat(2); the buffer comes back as argument 2. */
  stat(directory: Operand, path: Buffer | string, flags: number): number {
    return this.add('newfstatat', value(directory), pathArgument(path), out(144), value(flags));
  }

  /** Any syscall by name. */
  add(name: string, ...args: BatchArgument[]): number {
    this.steps.push({ nr: syscallTable().get(name).number, args });
    return this.steps.length - 1;
  }
}

/** The bytes that step `index` read, or undefined when it failed. */
export function bytesOf(results: readonly NativeStepResult[], index: number, argument = 1): Buffer | undefined {
  const result = results[index];
  if (result === undefined || result.value < 0n) return undefined;
  return result.out[argument] ?? Buffer.alloc(0);
}

export function value(operand: Operand): BatchArgument {
  if (typeof operand === 'object') return { kind: NativeArgumentKind.result, step: operand.step };
  return { kind: NativeArgumentKind.value, value: operand };
}

export function out(size: number): BatchArgument {
  return { kind: NativeArgumentKind.out, size };
}

function pathArgument(path: Buffer | string): BatchArgument {
  const bytes = typeof path === 'string' ? Buffer.from(`${path}\0`) : Buffer.concat([path, terminator]);
  return { kind: NativeArgumentKind.in, bytes };
}

const terminator = Buffer.alloc(1);
