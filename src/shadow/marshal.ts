import { PenumbraError } from '../errors.js';
import { kindText, type SyscallParameter } from './argumentKind.js';
import {
  type BufferKind,
  bytesOfLength,
  lengthOfPointee,
  naturalSize,
  type Pointee,
  type PreparedArgument,
  prepareAny,
  prepareBuffer,
  prepareString,
  typeOf,
} from './bufferArgument.js';
import { type DecodedResult, decodeResult } from './decodedResult.js';
import { type NativeArgument, NativeArgumentKind, type NativeStep, type NativeStepResult } from './nativeCall.js';
import { Out, RawAddress, ResultOf, type SyscallArgument } from './syscallArgument.js';
import type { SyscallDefinition, SyscallTable } from './syscallTable.js';

export interface MarshalledCall {
  definition: SyscallDefinition;
  /** What each argument is made of. */
  arguments: readonly PreparedArgument[];
  step: NativeStep;
  /** @throws PenumbraError CORRUPT when the guest's answer contradicts itself */
  decode(result: NativeStepResult): DecodedResult;
}

/** An argument under way: lengths stay undefined until the buffers are known. */
interface Draft {
  parameter: SyscallParameter;
  prepared: PreparedArgument | undefined;
}

const LOWEST = -(2n ** 63n);
const HIGHEST = 2n ** 64n - 1n;

/**
 * Turns a system call with JavaScript arguments into a step for the native executor. Arguments that may be left out are
 * filled in: see the head of profiles/syscalls.x86_64.
 * @throws PenumbraError REFUSED with the reason; BAD_ARGUMENT naming the call, the argument and what it should be
 */
export function marshal(
  table: SyscallTable,
  nameOrNumber: string | number,
  args: readonly SyscallArgument[],
): MarshalledCall {
  const definition = table.get(nameOrNumber);
  if (definition.refusal !== undefined) throw new PenumbraError('REFUSED', `${definition.name}: ${definition.refusal}`);
  requireCount(definition, args.length);
  const drafts = definition.parameters.map((parameter, index): Draft => {
    const prepare = () => prepareArgument(definition, parameter, args[index]);
    return { parameter, prepared: naming(definition, index, prepare) };
  });
  for (const [index, draft] of drafts.entries()) {
    const { kind } = draft.parameter;
    if (kind.form === 'buffer') naming(definition, index, () => settleLength(drafts, draft, kind));
  }
  const prepared = drafts.map(({ prepared: argument }) => argument as PreparedArgument);
  return {
    definition,
    arguments: prepared,
    step: { nr: definition.number, args: prepared.map((argument, index) => toNative(definition, index, argument)) },
    decode: (result) => decodeResult(definition, prepared, result),
  };
}

function requireCount({ name, parameters }: SyscallDefinition, given: number): void {
  if (given <= parameters.length) return;
  const names = parameters.map((parameter) => parameter.name).join(', ');
  const takes = parameters.length === 0 ? 'no arguments' : `${parameters.length} arguments (${names})`;
  throw new PenumbraError('BAD_ARGUMENT', `${name} takes ${takes}, ${given} are given`);
}

/** Undefined for a length that is left out: `settleLength` computes it from its buffer. */
function prepareArgument(
  definition: SyscallDefinition,
  parameter: SyscallParameter,
  given: SyscallArgument,
): PreparedArgument | undefined {
  const { kind, fallback } = parameter;
  if (given === undefined) {
    const length = lengthOwner(definition, parameter);
    if (length !== undefined) return undefined;
    if (fallback !== undefined) return kind.form === 'value' ? { value: fallback } : { place: 'nowhere' };
    if (kind.form !== 'buffer' || kind.direction === 'in') throw new PenumbraError('BAD_ARGUMENT', 'is missing');
    return prepareBuffer(kind, new Out());
  }
  if (given instanceof ResultOf) return { resultOf: requireStep(given.step) };
  switch (kind.form) {
    case 'string':
      return prepareString(given);
    case 'buffer':
      return prepareBuffer(kind, given);
    case 'value':
      if (kind.type === 'address')
        return { value: given === null ? 0n : toRegister(given instanceof RawAddress ? given.address : given) };
      return (kind.type === 'any' ? prepareAny(given) : undefined) ?? { value: toRegister(given) };
  }
}

/** The first buffer whose length the parameter is. */
function lengthOwner(
  { parameters }: SyscallDefinition,
  { name, kind }: SyscallParameter,
): SyscallParameter | undefined {
  if (kind.form === 'value' && kind.type !== 'size' && kind.type !== 'count') return undefined;
  return parameters.find((other) => other.kind.form === 'buffer' && other.kind.length?.argument === name);
}

/** Makes a buffer and the argument that says its length agree: whichever is not given follows from the other. */
function settleLength(drafts: readonly Draft[], draft: Draft, kind: BufferKind): void {
  const counter = drafts.find(({ parameter }) => parameter.name === kind.length?.argument);
  if (counter === undefined || kind.length === undefined) {
    settleRoom(draft, kind, kind.length === undefined ? 0 : bytesOfLength(kind.length, typeOf(kind), 0n));
    return;
  }
  if (counter.prepared === undefined) {
    const measure = firstMeasured(drafts, counter);
    if (measure !== undefined) {
      if (measure.kind.direction !== 'in') settleRoom(measure.draft, measure.kind, 0);
      const pointee = measure.draft.prepared as Pointee;
      counter.prepared = encodeLength(counter, lengthOfPointee(measure.length, optionalType(measure.kind), pointee));
    } else counter.prepared = encodeLength(counter, Number(counter.parameter.fallback ?? 0n));
  }
  const value = readLength(counter);
  if (value === undefined) settleRoom(draft, kind, 0);
  else settleAgainst(draft, kind, value);
}

/** The buffer that tells a length which is left out: the first with contents, otherwise the first with any memory. */
function firstMeasured(drafts: readonly Draft[], counter: Draft) {
  const tied = drafts.flatMap((draft) => {
    const { kind } = draft.parameter;
    if (kind.form !== 'buffer' || kind.length?.argument !== counter.parameter.name) return [];
    const place = draft.prepared !== undefined && 'place' in draft.prepared ? draft.prepared.place : 'nowhere';
    return place === 'nowhere' || place === 'raw' ? [] : [{ draft, kind, length: kind.length, place }];
  });
  return tied.find(({ place }) => place !== 'room') ?? tied[0];
}

function settleAgainst(draft: Draft, kind: BufferKind, value: bigint): void {
  const pointee = draft.prepared;
  if (pointee === undefined || !('place' in pointee) || kind.length === undefined) return;
  const counterName = kind.length.argument;
  if (pointee.place === 'scattered') {
    const { count } = pointee.buffer;
    if (value > BigInt(count))
      throw new PenumbraError('BAD_ARGUMENT', `${counterName} says ${value} elements, ${count} are given`);
  } else if (pointee.place === 'data' || pointee.place === 'room') {
    const needed = bytesOfLength(kind.length, typeOf(kind), value);
    if (pointee.place === 'room') settleRoom(draft, kind, needed, needed);
    else if (pointee.bytes.length < needed) {
      throw new PenumbraError('BAD_ARGUMENT', `${counterName} says ${needed} bytes, ${pointee.bytes.length} are given`);
    }
  }
}

/** Gives room that has no size yet one, and never less than the kernel may write. */
function settleRoom(draft: Draft, kind: BufferKind, needed: number, unsized?: number): void {
  const pointee = draft.prepared;
  if (pointee === undefined || !('place' in pointee) || pointee.place !== 'room') return;
  draft.prepared = { place: 'room', size: Math.max(pointee.size ?? unsized ?? naturalSize(kind), needed) };
}

/** The value of a length argument that is known before the call. */
function readLength({ parameter, prepared }: Draft): bigint | undefined {
  if (prepared === undefined) return undefined;
  if ('value' in prepared) return prepared.value;
  if (!('place' in prepared) || prepared.place !== 'data' || parameter.kind.form !== 'buffer') return undefined;
  return BigInt(typeOf(parameter.kind).decode(prepared.bytes) as number);
}

function encodeLength({ parameter: { kind } }: Draft, value: number): PreparedArgument {
  return kind.form === 'buffer' ? prepareBuffer(kind, value) : { value: BigInt(value) };
}

/** iovec and its like are no types of their own. */
function optionalType(kind: BufferKind) {
  return /^m*(iovec|msghdr)$/.test(kind.type) ? undefined : typeOf(kind);
}

function toRegister(given: SyscallArgument): bigint {
  if (typeof given === 'bigint') {
    if (given < LOWEST || given > HIGHEST) throw new PenumbraError('BAD_ARGUMENT', `${given} does not fit 64 bits`);
    return given;
  }
  if (typeof given === 'number' && Number.isSafeInteger(given)) return BigInt(given);
  if (typeof given === 'number')
    throw new PenumbraError('BAD_ARGUMENT', `${given} is no integer that a number holds exactly`);
  throw new PenumbraError('BAD_ARGUMENT', 'a number or a bigint is expected');
}

function requireStep(step: number): number {
  if (Number.isInteger(step) && step >= 0) return step;
  throw new PenumbraError('BAD_ARGUMENT', `${step} is no step of a batch`);
}

function toNative({ parameters }: SyscallDefinition, index: number, prepared: PreparedArgument): NativeArgument {
  if ('value' in prepared) return { kind: NativeArgumentKind.value, value: prepared.value };
  if ('resultOf' in prepared) return { kind: NativeArgumentKind.result, step: prepared.resultOf };
  switch (prepared.place) {
    case 'nowhere':
      return { kind: NativeArgumentKind.value, value: 0 };
    case 'raw':
      return { kind: NativeArgumentKind.value, value: prepared.address };
    case 'room':
      return { kind: NativeArgumentKind.out, size: prepared.size ?? 0 };
    case 'data':
      return { kind: directionOf(parameters[index]), bytes: prepared.bytes };
    case 'scattered':
      return { kind: directionOf(parameters[index]), bytes: prepared.buffer.bytes, fixups: prepared.buffer.fixups };
  }
}

function directionOf(parameter: SyscallParameter | undefined): 1 | 3 {
  const kind = parameter?.kind;
  const isRead = kind?.form === 'string' || (kind?.form === 'buffer' && kind.direction === 'in');
  return isRead ? NativeArgumentKind.in : NativeArgumentKind.inout;
}

/** Runs a step of the work on one argument; a failure is said to be of that argument. */
function naming<T>({ name, parameters }: SyscallDefinition, index: number, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    if (!(cause instanceof PenumbraError) || cause.code !== 'BAD_ARGUMENT') throw cause;
    const parameter = parameters[index] as SyscallParameter;
    const where = `${name}, argument ${index + 1} (${parameter.name}: ${kindText(parameter.kind)})`;
    throw new PenumbraError('BAD_ARGUMENT', `${where}: ${cause.message}`, { cause });
  }
}
