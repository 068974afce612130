/** Numbers and raw bytes as pointed-to types. */
import { PenumbraError } from '../../errors.js';
import { type AbiType, type Field, i32, i64, requireLength, type StructType, struct, u32, u64 } from './layout.js';

/** What a buffer of unknown size gets. */
const NATURAL_BYTES = 4096;

function scalar<T>(name: string, field: Field<T>): AbiType<T> {
  return {
    name,
    size: field.size,
    variable: false,
    naturalSize: field.size,
    symbols: {},
    decode(bytes) {
      requireLength(name, bytes, field.size);
      return field.read(bytes, 0);
    },
    encode(value) {
      const bytes = Buffer.alloc(field.size);
      try {
        field.write(bytes, 0, value as T);
      } catch (cause) {
        throw new PenumbraError('BAD_ARGUMENT', `${name}: ${cause instanceof Error ? cause.message : String(cause)}`, {
          cause,
        });
      }
      return bytes;
    },
  };
}

const byte: AbiType<Buffer> = {
  name: 'byte',
  size: 1,
  variable: true,
  naturalSize: NATURAL_BYTES,
  symbols: {},
  decode: (bytes) => Buffer.from(bytes),
  encode(value) {
    if (typeof value === 'string') return Buffer.from(value);
    throw new PenumbraError('BAD_ARGUMENT', 'bytes are a Buffer or a string');
  },
};

/** Text whose length is known; a terminating NUL that the length counts is left out. */
const chars: AbiType<Buffer> = {
  ...byte,
  name: 'chars',
  decode: (bytes) => Buffer.from(bytes.at(-1) === 0 ? bytes.subarray(0, -1) : bytes),
};

/** An iovec whose addresses are meant for another process: nothing is placed behind them. */
const remoteIovec: StructType<{ base: bigint; len: bigint }> = struct('remote_iovec', 16, {
  base: u64(0),
  len: u64(8),
});

/** Numbers of 64 bits whose count comes as a length in bytes. */
const u64list: AbiType<bigint[]> = {
  name: 'u64list',
  size: 1,
  variable: true,
  naturalSize: NATURAL_BYTES,
  symbols: {},
  decode: (bytes) =>
    Array.from({ length: Math.floor(bytes.length / 8) }, (_, index) => bytes.readBigUInt64LE(index * 8)),
};

export const scalarTypes = [
  byte,
  chars,
  u64list,
  remoteIovec,
  scalar('int', i32(0)),
  scalar('fd', i32(0)),
  scalar('pid', i32(0)),
  scalar('uint', u32(0)),
  scalar('u32', u32(0)),
  scalar('uid', u32(0)),
  scalar('gid', u32(0)),
  scalar('long', i64(0)),
  scalar('off', i64(0)),
  scalar('time', i64(0)),
  scalar('ulong', u64(0)),
  scalar('u64', u64(0)),
  scalar('size', u64(0)),
  scalar('address', u64(0)),
];
