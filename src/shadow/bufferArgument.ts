/** Pointer arguments of a system call: from what the caller gave to what is placed in scratch memory. */
import { PenumbraError } from '../errors.js';
import type { ArgumentKind, BufferLength } from './argumentKind.js';
import { type ScatteredBuffer, scatterMessage, scatterMessages, scatterPieces } from './scatter.js';
import { abiTypes } from './structs/abiTypes.js';
import type { AbiType } from './structs/layout.js';
import { MAXIMUM_BUFFER, type Message, Out, type Piece, RawAddress, type SyscallArgument } from './syscallArgument.js';

export type BufferKind = Extract<ArgumentKind, { form: 'buffer' }>;

/** What a pointer argument points to. */
export type Pointee =
  | { place: 'nowhere' }
  | { place: 'raw'; address: bigint }
  | { place: 'data'; bytes: Buffer }
  | { place: 'scattered'; buffer: ScatteredBuffer }
  /** zeroed room; size undefined until the length arguments have been seen */
  | { place: 'room'; size: number | undefined };

/** An argument ready to be placed: a number, the result of another step, or memory. */
export type PreparedArgument = { value: bigint } | { resultOf: number } | Pointee;

/** Bytes for the elements of an array that only the kernel writes. */
const NATURAL_ARRAY = 4096;
const NUL = Buffer.alloc(1);

/** @throws PenumbraError BAD_ARGUMENT when the value is none for a string */
export function prepareString(value: SyscallArgument): Pointee {
  const pointer = preparePointer(value);
  if (pointer !== undefined) return pointer;
  if (typeof value === 'string') return data(Buffer.concat([Buffer.from(value), NUL]));
  if (Buffer.isBuffer(value)) return data(Buffer.concat([value, NUL]));
  throw unsuitable('a string or a Buffer');
}

/**
 * An argument that is a number or a buffer by the meaning of another one; undefined when it is a number.
 * @throws PenumbraError BAD_ARGUMENT
 */
export function prepareAny(value: SyscallArgument): Pointee | undefined {
  if (typeof value === 'string') return data(Buffer.concat([Buffer.from(value), NUL]));
  if (Buffer.isBuffer(value)) return data(value);
  if (value instanceof Out) return { place: 'room', size: value.size };
  return preparePointer(value);
}

/** @throws PenumbraError BAD_ARGUMENT when the value does not suit the kind */
export function prepareBuffer(kind: BufferKind, value: SyscallArgument): Pointee {
  const pointer = preparePointer(value);
  if (pointer !== undefined) return pointer;
  const receives = kind.direction !== 'in';
  switch (kind.type) {
    case 'iovec':
      return { place: 'scattered', buffer: scatterPieces(listOf<Piece>(value, receives)) };
    case 'msghdr':
      return { place: 'scattered', buffer: scatterMessage(messageOf(value, receives), receives) };
    case 'mmsghdr':
      return { place: 'scattered', buffer: scatterMessages(messagesOf(value, receives), receives) };
  }
  const type = typeOf(kind);
  if (value instanceof Out) return prepareRoom(kind, type, value);
  if (kind.direction === 'out' || kind.direction === 'fill') throw unsuitable('out(size)');
  return data(encode(kind, type, value));
}

/** The type behind a pointer. @throws PenumbraError INTERNAL for a name that the profile should not have */
export function typeOf(kind: BufferKind): AbiType {
  const type = abiTypes.get(kind.type);
  if (type === undefined)
    throw new PenumbraError('INTERNAL', `profiles/syscalls.x86_64 names the type ${kind.type}, which is not known`);
  return type;
}

/** Whether the buffer holds several values, as many as its length says. */
export function isArray(kind: BufferKind, type: AbiType): boolean {
  return kind.length?.unit === 'elements' && !type.variable;
}

/** The value of the counting argument for a pointee of which `bytes` are there; the inverse of `bytesOfLength`. */
export function lengthOfPointee(length: BufferLength, type: AbiType | undefined, pointee: Pointee): number {
  if (pointee.place === 'scattered') return pointee.buffer.count;
  const bytes = pointee.place === 'data' ? pointee.bytes.length : pointee.place === 'room' ? (pointee.size ?? 0) : 0;
  const units = length.unit === 'elements' ? Math.floor(bytes / (type?.size ?? 1)) : bytes;
  return Math.max(0, units - length.plus) * length.divisor;
}

/** Bytes that the kernel may touch when the counting argument has this value. @throws PenumbraError BAD_ARGUMENT */
export function bytesOfLength(length: BufferLength, type: AbiType, value: bigint): number {
  const units = BigInt(length.plus) + (value + BigInt(length.divisor) - 1n) / BigInt(length.divisor);
  const bytes = length.unit === 'elements' ? units * BigInt(type.size) : units;
  if (value < 0n || bytes > BigInt(MAXIMUM_BUFFER)) {
    throw new PenumbraError('BAD_ARGUMENT', `a length of ${value}: a buffer has from 0 to ${MAXIMUM_BUFFER} bytes`);
  }
  return Number(bytes);
}

/** Bytes of a buffer that is left to penumbra to measure. */
export function naturalSize(kind: BufferKind): number {
  const type = typeOf(kind);
  const { length } = kind;
  if (length?.argument === undefined && length !== undefined) return bytesOfLength(length, type, 0n);
  if (isArray(kind, type) && kind.direction !== 'inout') return Math.floor(NATURAL_ARRAY / type.size) * type.size;
  return type.naturalSize;
}

export function unsuitable(expected: string): PenumbraError {
  return new PenumbraError(
    'BAD_ARGUMENT',
    `${expected} is expected (null for NULL, rawAddress(n) for an address of the task)`,
  );
}

function preparePointer(value: SyscallArgument): Pointee | undefined {
  if (value === null) return { place: 'nowhere' };
  if (value instanceof RawAddress) return { place: 'raw', address: value.address };
  return undefined;
}

/** Room that the kernel reads too starts with what the type needs to be there. */
function prepareRoom(kind: BufferKind, type: AbiType, { size }: Out): Pointee {
  if (kind.direction !== 'inout') {
    const smallest = type.variable || kind.length !== undefined ? 0 : type.size;
    return { place: 'room', size: size === undefined ? undefined : Math.max(size, smallest) };
  }
  const initial = type.initial ?? Buffer.alloc(naturalSize(kind));
  return data(Buffer.concat([initial, Buffer.alloc(Math.max(0, (size ?? 0) - initial.length))]));
}

function encode(kind: BufferKind, type: AbiType, value: SyscallArgument): Buffer {
  const many = isArray(kind, type);
  const bytes = Buffer.isBuffer(value) ? value : encodeValue(type, value, many);
  const { length } = kind;
  const smallest =
    length === undefined ? type.size : length.argument === undefined ? bytesOfLength(length, type, 0n) : 0;
  if (bytes.length < smallest) {
    throw new PenumbraError('BAD_ARGUMENT', `${type.name} has ${smallest} bytes, ${bytes.length} are given`);
  }
  return bytes;
}

function encodeValue(type: AbiType, value: SyscallArgument, many: boolean): Buffer {
  if (type.encode === undefined) throw unsuitable(`a Buffer with ${type.name}`);
  if (many && Array.isArray(value))
    return Buffer.concat(value.map((element: unknown) => type.encode?.(element) as Buffer));
  return type.encode(value);
}

function listOf<T>(value: SyscallArgument, receives: boolean): readonly T[] {
  if (Array.isArray(value)) return value as readonly T[];
  if (value instanceof Out && receives) return [value as T];
  if ((typeof value === 'string' || Buffer.isBuffer(value)) && !receives) return [value as T];
  throw unsuitable('an array');
}

function messageOf(value: SyscallArgument, receives: boolean): Message {
  if (value instanceof Out && receives) return value.size === undefined ? {} : { iov: [value] };
  if (typeof value === 'object' && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value))
    return value as Message;
  throw unsuitable('a message { name, iov, control }');
}

function messagesOf(value: SyscallArgument, receives: boolean): readonly Message[] {
  return Array.isArray(value)
    ? value.map((each) => messageOf(each as SyscallArgument, receives))
    : [messageOf(value, receives)];
}

function data(bytes: Buffer): Pointee {
  if (bytes.length > MAXIMUM_BUFFER)
    throw new PenumbraError('BAD_ARGUMENT', `${bytes.length} bytes, a buffer has up to ${MAXIMUM_BUFFER}`);
  return { place: 'data', bytes };
}
