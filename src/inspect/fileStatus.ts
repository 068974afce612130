import { GuestError, PenumbraError } from '../errors.js';
import {
  AT_FDCWD,
  AT_NO_AUTOMOUNT,
  AT_SYMLINK_NOFOLLOW,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  STATX_BASIC_STATS,
  STATX_BTIME,
} from '../shadow/constants.js';
import { errnoName, errnoOfResult } from '../shadow/errno.js';
import { NativeArgumentKind, type NativeStepResult } from '../shadow/nativeCall.js';
import { bytesOf, type Operand, out, type StepList, value } from '../shadow/stepList.js';
import { requireLength } from '../shadow/structs/layout.js';
import { printablePath, withoutNul } from './guestPath.js';
import { Moment, type Question, type ShadowSource } from './moment.js';
import { naming } from './notInMemory.js';
import type { FileStatus, FileType, NamedFile } from './records.js';

export interface StatOptions {
  /** look at what a symbolic link leads to; otherwise, the default, at the link */
  follow?: boolean;
}

/** uapi linux/fcntl.h: what the kernel knows, without asking a server of files for news. */
const AT_STATX_DONT_SYNC = 0x4000;
const STATX_SIZE = 256;
/** PATH_MAX of uapi linux/limits.h: no symbolic link is longer. */
const LONGEST_TARGET = 4096;

const TYPES = new Map<number, FileType>([
  [S_IFREG, 'file'],
  [S_IFDIR, 'directory'],
  [S_IFLNK, 'symlink'],
  [S_IFCHR, 'characterDevice'],
  [S_IFBLK, 'blockDevice'],
  [S_IFIFO, 'fifo'],
  [S_IFSOCK, 'socket'],
]);

/**
 * What the guest's kernel says of one file.
 * @throws GuestError (ENOENT ...); PenumbraError DEVICE_ACCESS when its inode is not in the guest's memory
 */
export async function statFile(
  source: ShadowSource,
  path: string | Buffer,
  options: StatOptions = {},
): Promise<NamedFile> {
  await using moment = new Moment(source);
  return await statInMoment(moment, withoutNul(path), options);
}

export async function statInMoment(moment: Moment, path: Buffer, { follow = false }: StatOptions): Promise<NamedFile> {
  const question: Question<{ status: FileStatus; target: Buffer | undefined }> = (list) => {
    const answer = addStatus(list, AT_FDCWD, path, follow);
    const link = addReadLink(list, AT_FDCWD, path);
    return (results) => ({ status: requireStatus(results, answer, path), target: readTarget(results, link) });
  };
  const { status, target } = await naming(path, moment.ask(question));
  return { path, ...status, ...(target !== undefined && status.type === 'symlink' ? { target } : {}) };
}

/** Adds statx(2) of `path` below `directory`. @returns the step */
export function addStatus(list: StepList, directory: Operand, path: Buffer, follow = false): number {
  const flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | (follow ? 0 : AT_SYMLINK_NOFOLLOW);
  const mask = STATX_BASIC_STATS | STATX_BTIME;
  return list.add('statx', value(directory), pathArgument(path), value(flags), value(mask), out(STATX_SIZE));
}

/** Adds readlinkat(2). @returns the step */
export function addReadLink(list: StepList, directory: Operand, path: Buffer): number {
  const buffer = { ...out(LONGEST_TARGET), lengthIsResult: true };
  return list.add('readlinkat', value(directory), pathArgument(path), buffer, value(LONGEST_TARGET));
}

/** @throws GuestError */
export function requireStatus(results: readonly NativeStepResult[], step: number, path: Buffer): FileStatus {
  requireSuccess(results, step, 'statx', path);
  return decodeStatus(bytesOf(results, step, 4) ?? Buffer.alloc(0));
}

/** undefined when the guest gave an error */
export function readStatus(results: readonly NativeStepResult[], step: number): FileStatus | undefined {
  const bytes = bytesOf(results, step, 4);
  return bytes === undefined ? undefined : decodeStatus(bytes);
}

export function readTarget(results: readonly NativeStepResult[], step: number): Buffer | undefined {
  const bytes = bytesOf(results, step, 2);
  return bytes === undefined ? undefined : Buffer.from(bytes);
}

/** @throws GuestError naming `path` when the step failed */
export function requireSuccess(
  results: readonly NativeStepResult[],
  step: number,
  syscall: string,
  path: Buffer,
): bigint {
  const result = results[step];
  if (result === undefined) throw new PenumbraError('INTERNAL', `no answer to ${syscall}`);
  const errno = errnoOfResult(result.value);
  if (errno !== undefined) throw new GuestError(errnoName(errno), syscall, printablePath(path));
  return result.value;
}

export function typeOfMode(mode: number): FileType {
  return TYPES.get(mode & S_IFMT) ?? 'unknown';
}

/** struct statx of uapi linux/stat.h, read at its offsets: a listing decodes a hundred thousand of them. */
export function decodeStatus(bytes: Buffer): FileStatus {
  requireLength('statx', bytes, STATX_SIZE);
  const mode = bytes.readUInt16LE(28);
  const type = typeOfMode(mode);
  const hasBirth = (bytes.readUInt32LE(0) & STATX_BTIME) !== 0;
  return {
    type,
    mode,
    dev: { major: bytes.readUInt32LE(136), minor: bytes.readUInt32LE(140) },
    ino: bytes.readBigUInt64LE(32),
    nlink: bytes.readUInt32LE(16),
    uid: bytes.readUInt32LE(20),
    gid: bytes.readUInt32LE(24),
    size: bytes.readBigUInt64LE(40),
    blocks: bytes.readBigUInt64LE(48),
    blksize: bytes.readUInt32LE(4),
    ...(type === 'characterDevice' || type === 'blockDevice'
      ? { rdev: { major: bytes.readUInt32LE(128), minor: bytes.readUInt32LE(132) } }
      : {}),
    atimeNs: timestamp(bytes, 64),
    mtimeNs: timestamp(bytes, 112),
    ctimeNs: timestamp(bytes, 96),
    ...(hasBirth ? { btimeNs: timestamp(bytes, 80) } : {}),
  };
}

/** struct statx_timestamp */
function timestamp(bytes: Buffer, at: number): bigint {
  return bytes.readBigInt64LE(at) * 1_000_000_000n + BigInt(bytes.readUInt32LE(at + 8));
}

function pathArgument(path: Buffer) {
  return { kind: NativeArgumentKind.in, bytes: Buffer.concat([path, Buffer.alloc(1)]) };
}
