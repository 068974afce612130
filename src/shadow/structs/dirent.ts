/** Directory listings and other lists of names. Kernel: linux/dirent.h, fs/readdir.c, fs/xattr.c. */
import { PenumbraError } from '../../errors.js';
import { type AbiType, beforeNul } from './layout.js';

export interface Dirent {
  ino: bigint;
  /** position to continue from, meaningful only to the file system */
  off: bigint;
  /** DT_* */
  type: number;
  name: Buffer;
}

/** The offsets of the two record forms; the old one keeps the type in the record's last byte. */
const FORMS = {
  dirent64: { name: 19, type: (_record: number) => 18 },
  dirent: { name: 18, type: (record: number) => record - 1 },
};

/** A listing of 32 KiB is what the C library asks for. */
const NATURAL_SIZE = 32768;

/**
 * The records of a getdents64 (or, with 'dirent', getdents) buffer.
 * @throws PenumbraError CORRUPT when a record's length does not fit
 */
export function decodeDirents(bytes: Buffer, form: 'dirent64' | 'dirent' = 'dirent64'): Dirent[] {
  const { name, type } = FORMS[form];
  const entries: Dirent[] = [];
  for (let at = 0; at < bytes.length; ) {
    const left = bytes.length - at;
    const length = left >= name ? bytes.readUInt16LE(at + 16) : 0;
    if (length <= name || length > left) {
      throw new PenumbraError(
        'CORRUPT',
        `${form} at byte ${at} has the record length ${length}, ${left} bytes are left`,
      );
    }
    const record = bytes.subarray(at, at + length);
    entries.push({
      ino: record.readBigUInt64LE(0),
      off: record.readBigInt64LE(8),
      type: record[type(length)] as number,
      name: beforeNul(record.subarray(name)),
    });
    at += length;
  }
  return entries;
}

/** NUL-terminated names one after another: extended attributes. */
function decodeNames(bytes: Buffer): Buffer[] {
  const names: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const name = beforeNul(bytes.subarray(at));
    names.push(name);
    at += name.length + 1;
  }
  return names;
}

function listType<T>(name: string, decode: (bytes: Buffer) => T, symbols: Record<string, string> = {}): AbiType<T> {
  return { name, size: 1, variable: true, naturalSize: NATURAL_SIZE, symbols, decode };
}

export const direntTypes = [
  listType('dirent64', (bytes) => decodeDirents(bytes, 'dirent64'), { type: 'dtype' }),
  listType('dirent', (bytes) => decodeDirents(bytes, 'dirent'), { type: 'dtype' }),
  listType('names', decodeNames),
];
