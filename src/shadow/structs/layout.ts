import { PenumbraError } from '../../errors.js';

/** What decoders give: plain objects of numbers (up to 32 bits), bigints (64 bits), Buffers (names, raw bytes). */
export type Decoded =
  | number
  | bigint
  | string
  | Buffer
  | null
  | readonly Decoded[]
  | { readonly [field: string]: Decoded };

/** A member of a structure: where it is and how it is read and written. */
export interface Field<T> {
  offset: number;
  size: number;
  read(bytes: Buffer, offset: number): T;
  write(bytes: Buffer, offset: number, value: T): void;
  /** Group of symbols (constants.ts) that displays the number. */
  symbols?: string;
}

/** A type of the ABI by name, as the table of syscalls refers to it. */
export interface AbiType<T = unknown> {
  name: string;
  /** Bytes of one element; for variable types the smallest size that decodes. */
  size: number;
  /** Whether a value may be longer than `size`: sockaddr, dirents, statmount. */
  variable: boolean;
  /** Bytes of a buffer that is to hold one value and whose size nobody gave. */
  naturalSize: number;
  /** What a buffer that the kernel reads and writes holds when the caller gives none (a version, its own size). */
  initial?: Buffer;
  decode(bytes: Buffer): T;
  /** Absent where values only come from the kernel. @throws PenumbraError BAD_ARGUMENT */
  encode?(value: unknown): Buffer;
  /** Symbols of members, for display. */
  symbols: Readonly<Record<string, string>>;
}

/** An ABI type that can be written too. */
export type StructType<T> = AbiType<T> & { encode(value: unknown): Buffer };

type Fields = Record<string, Field<unknown>>;
type ValueOf<F> = F extends Field<infer T> ? T : never;
export type StructValue<F> = { [K in keyof F]: ValueOf<F[K]> };

/**
 * A structure of fixed layout. `encode` takes an object with any of the fields; those left out are as in `initial`, or zero.
 * `decode` accepts longer input (newer kernels append members).
 */
export function struct<F extends Fields>(
  name: string,
  size: number,
  fields: F,
  more: Partial<Pick<AbiType, 'initial' | 'naturalSize'>> = {},
): StructType<StructValue<F>> {
  const entries = Object.entries(fields) as unknown as [string, Field<Decoded>][];
  const symbols = Object.fromEntries(
    entries.flatMap(([key, { symbols: group }]) => (group === undefined ? [] : [[key, group]])),
  );
  return {
    name,
    size,
    variable: false,
    naturalSize: size,
    ...more,
    symbols,
    decode(bytes: Buffer) {
      requireLength(name, bytes, size);
      return Object.fromEntries(
        entries.map(([key, field]) => [key, field.read(bytes, field.offset)]),
      ) as StructValue<F>;
    },
    encode(value: unknown) {
      const bytes = Buffer.from(more.initial ?? Buffer.alloc(size));
      encodeFields(name, entries, value, bytes);
      return bytes;
    },
  };
}

function encodeFields(name: string, fields: [string, Field<Decoded>][], value: unknown, into: Buffer): void {
  if (typeof value !== 'object' || value === null)
    throw new PenumbraError('BAD_ARGUMENT', `struct ${name}: an object is expected`);
  const known = new Map(fields);
  for (const [key, member] of Object.entries(value)) {
    const field = known.get(key);
    if (field === undefined)
      throw new PenumbraError('BAD_ARGUMENT', `struct ${name} has no field '${key}': ${[...known.keys()].join(', ')}`);
    try {
      field.write(into, field.offset, member as Decoded);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new PenumbraError('BAD_ARGUMENT', `struct ${name}, field ${key}: ${reason}`, { cause });
    }
  }
}

/** @throws PenumbraError CORRUPT when the bytes are fewer than the type needs */
export function requireLength(name: string, bytes: Buffer, size: number): void {
  if (bytes.length < size)
    throw new PenumbraError('CORRUPT', `struct ${name} needs ${size} bytes, ${bytes.length} are there`);
}

export const u8 = (offset: number, symbols?: string) => number(offset, 1, false, symbols);
export const u16 = (offset: number, symbols?: string) => number(offset, 2, false, symbols);
export const u32 = (offset: number, symbols?: string) => number(offset, 4, false, symbols);
export const i32 = (offset: number, symbols?: string) => number(offset, 4, true, symbols);
export const i16 = (offset: number, symbols?: string) => number(offset, 2, true, symbols);

/** Network byte order. */
export const be16 = (offset: number): Field<number> => ({
  offset,
  size: 2,
  read: (bytes, at) => bytes.readUInt16BE(at),
  write: (bytes, at, value) => void bytes.writeUInt16BE(value, at),
});

export const u64 = (offset: number, symbols?: string): Field<bigint> =>
  withSymbols(symbols, {
    offset,
    size: 8,
    read: (bytes, at) => bytes.readBigUInt64LE(at),
    write: (bytes, at, value) => void bytes.writeBigUInt64LE(BigInt(value), at),
  });

export const i64 = (offset: number): Field<bigint> => ({
  offset,
  size: 8,
  read: (bytes, at) => bytes.readBigInt64LE(at),
  write: (bytes, at, value) => void bytes.writeBigInt64LE(BigInt(value), at),
});

/** Fixed number of raw bytes. */
export const raw = (offset: number, size: number): Field<Buffer> => ({
  offset,
  size,
  read: (bytes, at) => Buffer.from(bytes.subarray(at, at + size)),
  write: (bytes, at, value) => writeBytes(bytes, at, size, value),
});

/** char[size]: the bytes before the first NUL. */
export const chars = (offset: number, size: number): Field<Buffer> => ({
  offset,
  size,
  read: (bytes, at) => beforeNul(bytes.subarray(at, at + size)),
  write: (bytes, at, value) => writeBytes(bytes, at, size, value),
});

/** A structure inside a structure. */
export const nested = <T>(offset: number, type: StructType<T>): Field<T> => ({
  offset,
  size: type.size,
  read: (bytes, at) => type.decode(bytes.subarray(at, at + type.size)),
  write: (bytes, at, value) => void type.encode(value).copy(bytes, at),
});

/** `count` equal members side by side; `member` is one of the field makers, or a structure. */
export function repeated<T>(offset: number, count: number, member: (offset: number) => Field<T>): Field<T[]> {
  const { size, read, write } = member(0);
  return {
    offset,
    size: size * count,
    read: (bytes, at) => Array.from({ length: count }, (_, index) => read(bytes, at + index * size)),
    write(bytes, at, values) {
      if (values.length > count) throw new RangeError(`${values.length} elements, ${count} fit`);
      for (const [index, value] of values.entries()) write(bytes, at + index * size, value);
    },
  };
}

/** A copy of the bytes before the first NUL, or of all when there is none. */
export function beforeNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  return Buffer.from(end === -1 ? bytes : bytes.subarray(0, end));
}

function number(offset: number, size: 1 | 2 | 4, signed: boolean, symbols: string | undefined): Field<number> {
  return withSymbols(symbols, {
    offset,
    size,
    read: (bytes, at) => (signed ? bytes.readIntLE(at, size) : bytes.readUIntLE(at, size)),
    write(bytes, at, value) {
      if (signed) bytes.writeIntLE(value, at, size);
      else bytes.writeUIntLE(value, at, size);
    },
  });
}

function withSymbols<T>(symbols: string | undefined, field: Field<T>): Field<T> {
  return symbols === undefined ? field : { ...field, symbols };
}

function writeBytes(into: Buffer, at: number, size: number, value: Buffer | string): void {
  const bytes = typeof value === 'string' ? Buffer.from(value) : value;
  if (bytes.length > size) throw new RangeError(`${bytes.length} bytes, ${size} fit`);
  bytes.copy(into, at);
}
