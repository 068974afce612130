import { PenumbraError } from '../errors.js';
import type { ArgumentKind } from './argumentKind.js';
import { type BufferKind, isArray, type PreparedArgument, typeOf } from './bufferArgument.js';
import { errnoName, errnoOfResult } from './errno.js';
import type { NativeStepResult } from './nativeCall.js';
import type { Decoded } from './structs/layout.js';
import type { SyscallDefinition } from './syscallTable.js';

/** A system call that was run, with everything that can be said of it. */
export interface DecodedResult {
  definition: SyscallDefinition;
  /** raw return value, signed: -4095 .. -1 is a negative errno */
  value: bigint;
  /** 'ENOENT', when the call failed */
  errno: string | undefined;
  arguments: readonly DecodedArgument[];
}

export interface DecodedArgument {
  name: string;
  /** What the caller passed, a buffer's contents included; undefined for buffers that the kernel only writes. */
  given: Decoded | undefined;
  /** What the kernel wrote; undefined when it does not write, or the call failed. */
  returned: Decoded | undefined;
  /** The valid part of what the kernel wrote, as bytes. Undefined as `returned`, and for scattered buffers. */
  bytes: Buffer | undefined;
}

/** What the kernel wrote to the argument of this name. @throws PenumbraError INTERNAL when there is no such argument */
export function outputOf(result: DecodedResult, name: string): Decoded | undefined {
  const argument = result.arguments.find((each) => each.name === name);
  if (argument === undefined) throw new PenumbraError('INTERNAL', `${result.definition.name} has no argument ${name}`);
  return argument.returned;
}

/** @throws PenumbraError CORRUPT when the guest's answer contradicts itself */
export function decodeResult(
  definition: SyscallDefinition,
  prepared: readonly PreparedArgument[],
  result: NativeStepResult,
): DecodedResult {
  const errno = errnoOfResult(result.value);
  return {
    definition,
    value: BigInt.asIntN(64, result.value),
    errno: errno === undefined ? undefined : errnoName(errno),
    arguments: definition.parameters.map(({ name }, index) => {
      const after = errno === undefined ? result.out[index] : undefined;
      const written = after === undefined ? undefined : decodeWritten(definition, prepared, index, after, result);
      return {
        name,
        given: describeGiven(definition, prepared, index),
        returned: written?.value,
        bytes: written?.bytes,
      };
    }),
  };
}

interface Written {
  value: Decoded;
  bytes: Buffer | undefined;
}

function decodeWritten(
  definition: SyscallDefinition,
  prepared: readonly PreparedArgument[],
  index: number,
  after: Buffer,
  result: NativeStepResult,
): Written | undefined {
  const argument = prepared[index] as PreparedArgument;
  const kind = definition.parameters[index]?.kind;
  if ('place' in argument && argument.place === 'scattered') {
    requireSize(definition, index, after, argument.buffer.bytes.length);
    return { value: argument.buffer.decode(after, Number(result.value)), bytes: undefined };
  }
  if (kind?.form !== 'buffer') return { value: Buffer.from(after), bytes: after };
  if (kind.direction === 'in') return undefined;
  const bytes = after.subarray(0, validBytes(definition, kind, after.length, result));
  return { value: decodeBuffer(kind, bytes), bytes };
}

/** A defect of the executor, not of the guest. */
function requireSize({ name, parameters }: SyscallDefinition, index: number, after: Buffer, size: number): void {
  if (after.length >= size) return;
  throw new PenumbraError(
    'INTERNAL',
    `${name}, argument ${parameters[index]?.name}: ${after.length} of ${size} bytes came back`,
  );
}

/** How much of a buffer the kernel says it has written: never more than the buffer holds. */
function validBytes(definition: SyscallDefinition, kind: BufferKind, size: number, result: NativeStepResult): number {
  const { length } = kind;
  if (kind.direction === 'fill' && length !== undefined) {
    const units = Number(result.value);
    return clamp(length.unit === 'elements' ? units * typeOf(kind).size : units + length.plus, size);
  }
  if (length?.indirect) {
    const counter = definition.parameters.findIndex(({ name }) => name === length.argument);
    const counterKind = definition.parameters[counter]?.kind;
    const bytes = result.out[counter];
    if (bytes !== undefined && counterKind?.form === 'buffer')
      return clamp(Number(typeOf(counterKind).decode(bytes)), size);
  }
  return size;
}

function clamp(claimed: number, size: number): number {
  return Math.max(0, Math.min(claimed, size));
}

function decodeBuffer(kind: BufferKind, bytes: Buffer): Decoded {
  const type = typeOf(kind);
  if (!isArray(kind, type)) return type.decode(bytes) as Decoded;
  return Array.from({ length: Math.floor(bytes.length / type.size) }, (_, index) => {
    return type.decode(bytes.subarray(index * type.size, (index + 1) * type.size)) as Decoded;
  });
}

function describeGiven(
  { parameters }: SyscallDefinition,
  prepared: readonly PreparedArgument[],
  index: number,
): Decoded | undefined {
  const argument = prepared[index] as PreparedArgument;
  const kind = parameters[index]?.kind;
  if ('value' in argument) return argument.value;
  if ('resultOf' in argument) return `result of step ${argument.resultOf}`;
  switch (argument.place) {
    case 'nowhere':
      return null;
    case 'raw':
      return argument.address;
    case 'data':
      return kind?.form === 'string'
        ? argument.bytes.subarray(0, -1)
        : describeBytes(argument.bytes, () => describeData(kind, argument.bytes));
    case 'scattered':
      if (kind?.form === 'buffer' && kind.direction === 'fill') return undefined;
      return describeBytes(argument.buffer.bytes, () =>
        argument.buffer.decode(argument.buffer.bytes, Number.POSITIVE_INFINITY),
      );
    case 'room':
      return undefined;
  }
}

function describeData(kind: ArgumentKind | undefined, bytes: Buffer): Decoded {
  return kind?.form === 'buffer' ? decodeBuffer(kind, bytes) : bytes;
}

/** What the caller gave need not be a whole structure: then it is shown as bytes. */
function describeBytes(bytes: Buffer, describe: () => Decoded): Decoded {
  try {
    return describe();
  } catch (error) {
    if (error instanceof PenumbraError && error.code === 'CORRUPT') return bytes;
    throw error;
  }
}
