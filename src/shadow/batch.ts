import type { NativeBatchResult } from '../binding.js';
import { type NativeArgument, NativeArgumentKind, type NativeStep, type NativeStepResult } from './nativeCall.js';

/**
 * Encodes a list of calls for the native executor and reads its answer. The layout is that of native/shadow/batch.h:
 * header, steps, arguments, fixups, payload, all little-endian.
 */

const headerWords = 4;
const stepWords = 6;
const argumentWords = 8;
const fixupWords = 2;

const StepFlag = { repeat: 1, function: 2, direct: 4, program: 8 } as const;
const ArgumentFlag = { lengthIsResult: 1 } as const;

export interface BatchArgument extends NativeArgument {
  /** give back only as many bytes as the call returned (read, getdents64, readlink ...) */
  lengthIsResult?: boolean;
}

/** A syscall by number, a kernel function by address, or a program of native/inshadow by its number. */
export interface BatchStep extends Omit<NativeStep, 'args' | 'nr'> {
  nr: number | bigint;
  args: BatchArgument[];
  /** repeat while the call returns more than 0 and fewer than this many bytes came in all */
  repeatUntil?: number;
  kind?: 'syscall' | 'direct' | 'function' | 'program';
}

export function encodeBatch(steps: readonly BatchStep[]): Buffer {
  let argumentCount = 0;
  let fixupCount = 0;
  let payloadBytes = 0;
  for (const step of steps) {
    argumentCount += step.args.length;
    for (const argument of step.args) {
      fixupCount += argument.fixups?.length ?? 0;
      if (argument.bytes !== undefined) payloadBytes += align(argument.bytes.length);
    }
  }
  const stepsAt = headerWords;
  const argumentsAt = stepsAt + steps.length * stepWords;
  const fixupsAt = argumentsAt + argumentCount * argumentWords;
  let payload = align((fixupsAt + fixupCount * fixupWords) * 4);
  const buffer = Buffer.allocUnsafe(payload + payloadBytes);
  const words = new Uint32Array(buffer.buffer, buffer.byteOffset, Math.floor(buffer.length / 4));
  words[0] = steps.length;
  words[1] = argumentCount;
  words[2] = fixupCount;
  words[3] = 0;

  let argument = 0;
  let fixup = 0;
  steps.forEach((step, index) => {
    const at = stepsAt + index * stepWords;
    putWord(words, at, step.nr);
    words[at + 2] =
      (step.repeatUntil === undefined ? 0 : StepFlag.repeat) |
      (step.kind === 'function' ? StepFlag.function : 0) |
      (step.kind === 'direct' ? StepFlag.direct : 0) |
      (step.kind === 'program' ? StepFlag.program : 0);
    words[at + 3] = step.args.length;
    words[at + 4] = argument;
    words[at + 5] = step.repeatUntil ?? 0;
    for (const item of step.args) {
      const slot = argumentsAt + argument * argumentWords;
      words[slot] = item.kind;
      words[slot + 1] = item.lengthIsResult ? ArgumentFlag.lengthIsResult : 0;
      words[slot + 2] = item.bytes?.length ?? item.size ?? 0;
      words[slot + 3] = payload;
      putWord(words, slot + 4, item.kind === NativeArgumentKind.result ? (item.step ?? 0) : (item.value ?? 0));
      words[slot + 6] = fixup;
      words[slot + 7] = item.fixups?.length ?? 0;
      if (item.bytes !== undefined) {
        item.bytes.copy(buffer, payload);
        payload += align(item.bytes.length);
      }
      for (const { offset, target } of item.fixups ?? []) {
        words[fixupsAt + fixup * fixupWords] = offset;
        words[fixupsAt + fixup * fixupWords + 1] = target;
        fixup += 1;
      }
      argument += 1;
    }
  });
  return buffer;
}

/** The answers of the steps that completed, in order. Buffers share the memory of `result`. */
export function decodeBatch(steps: readonly BatchStep[], result: NativeBatchResult): NativeStepResult[] {
  const answers: NativeStepResult[] = [];
  const firstArgument: number[] = [];
  let count = 0;
  for (const step of steps) {
    firstArgument.push(count);
    count += step.args.length;
  }
  for (const value of result.values) answers.push({ value, out: [] });
  for (const step of result.blocked) (answers[step] as NativeStepResult).blocked = true;
  for (let at = 0; at + 3 < result.outs.length; at += 4) {
    const [step, argument, offset, length] = result.outs.subarray(at, at + 4) as unknown as [
      number,
      number,
      number,
      number,
    ];
    const answer = answers[step];
    if (answer === undefined) continue;
    const index = argument - (firstArgument[step] as number);
    const bytes = result.bytes.subarray(offset, offset + length);
    const earlier = answer.out[index];
    answer.out[index] = earlier === undefined ? bytes : Buffer.concat([earlier, bytes]);
  }
  return answers;
}

/** Buffers begin on 16-byte boundaries, in the encoded batch as in scratch memory. */
function align(length: number): number {
  return (length + 15) & ~15;
}

function putWord(words: Uint32Array, at: number, value: number | bigint): void {
  if (typeof value === 'number') {
    words[at] = value >>> 0;
    words[at + 1] = Math.floor(value / 2 ** 32) >>> 0;
  } else {
    words[at] = Number(BigInt.asUintN(32, value));
    words[at + 1] = Number(BigInt.asUintN(32, value >> 32n));
  }
}
