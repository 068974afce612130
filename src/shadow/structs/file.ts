/** Files and file systems. Kernel: arch/x86 uapi asm/stat.h, uapi linux/stat.h, asm-generic/statfs.h, linux/openat2.h. */
import {
  type AbiType,
  chars,
  i32,
  i64,
  nested,
  requireLength,
  type StructValue,
  struct,
  u16,
  u32,
  u64,
} from './layout.js';
import { timespec } from './time.js';

const statFields = {
  dev: u64(0),
  ino: u64(8),
  nlink: u64(16),
  mode: u32(24, 'mode'),
  uid: u32(28),
  gid: u32(32),
  rdev: u64(40),
  size: i64(48),
  blksize: i64(56),
  /** in units of 512 bytes */
  blocks: i64(64),
  atime: nested(72, timespec),
  mtime: nested(88, timespec),
  ctime: nested(104, timespec),
};

export type Stat = StructValue<typeof statFields>;
export const stat = struct('stat', 144, statFields);

const statxTimestamp = struct('statx_timestamp', 16, { sec: i64(0), nsec: u32(8) });

const statxFields = {
  mask: u32(0, 'statx'),
  blksize: u32(4),
  attributes: u64(8, 'statxattr'),
  nlink: u32(16),
  uid: u32(20),
  gid: u32(24),
  mode: u16(28, 'mode'),
  ino: u64(32),
  size: u64(40),
  /** in units of 512 bytes */
  blocks: u64(48),
  attributesMask: u64(56, 'statxattr'),
  atime: nested(64, statxTimestamp),
  btime: nested(80, statxTimestamp),
  ctime: nested(96, statxTimestamp),
  mtime: nested(112, statxTimestamp),
  rdevMajor: u32(128),
  rdevMinor: u32(132),
  devMajor: u32(136),
  devMinor: u32(140),
  /** since Linux 5.8, as the mask says */
  mntId: u64(144),
  /** since Linux 6.1 */
  dioMemAlign: u32(152),
  dioOffsetAlign: u32(156),
  /** since Linux 6.10 */
  subvol: u64(160),
  /** since Linux 6.11 */
  atomicWriteUnitMin: u32(168),
  atomicWriteUnitMax: u32(172),
  atomicWriteSegmentsMax: u32(176),
};

export type Statx = StructValue<typeof statxFields>;
export const statx = struct('statx', 256, statxFields);

const statfsFields = {
  type: i64(0),
  bsize: i64(8),
  blocks: u64(16),
  bfree: u64(24),
  bavail: u64(32),
  files: u64(40),
  ffree: u64(48),
  fsid: u64(56),
  namelen: i64(64),
  frsize: i64(72),
  flags: i64(80),
};

export type Statfs = StructValue<typeof statfsFields>;
export const statfs = struct('statfs', 120, statfsFields);

const ustat = struct('ustat', 32, { tfree: i32(0), tinode: u64(8), fname: chars(16, 6), fpack: chars(22, 6) });
const openHow = struct('open_how', 24, { flags: u64(0, 'open'), mode: u64(8, 'mode'), resolve: u64(16) });
const cachestatRange = struct('cachestat_range', 16, { off: u64(0), len: u64(8) });
const cachestat = struct('cachestat', 40, {
  nrCache: u64(0),
  nrDirty: u64(8),
  nrWriteback: u64(16),
  nrEvicted: u64(24),
  nrRecentlyEvicted: u64(32),
});

/** MAX_HANDLE_SZ (uapi linux/fcntl.h): what the caller offers unless told otherwise. */
const MAXIMUM_HANDLE = 128;
const HANDLE_HEADER = 8;

export interface FileHandle {
  type: number;
  handle: Buffer;
}

const fileHandle: AbiType<FileHandle> = {
  name: 'file_handle',
  size: HANDLE_HEADER,
  variable: true,
  naturalSize: HANDLE_HEADER + MAXIMUM_HANDLE,
  initial: emptyHandle(),
  symbols: {},
  decode(bytes) {
    requireLength('file_handle', bytes, HANDLE_HEADER);
    const length = bytes.readUInt32LE(0);
    requireLength('file_handle', bytes, HANDLE_HEADER + length);
    return { type: bytes.readInt32LE(4), handle: Buffer.from(bytes.subarray(HANDLE_HEADER, HANDLE_HEADER + length)) };
  },
};

function emptyHandle(): Buffer {
  const bytes = Buffer.alloc(HANDLE_HEADER + MAXIMUM_HANDLE);
  bytes.writeUInt32LE(MAXIMUM_HANDLE, 0);
  return bytes;
}

/** Major and minor of a device number as stat gives it (kernel: new_encode_dev in linux/kdev_t.h). */
export function splitDevice(dev: bigint): { major: number; minor: number } {
  const value = Number(BigInt.asUintN(32, dev));
  return { major: (value >>> 8) & 0xfff, minor: (value & 0xff) | ((value >>> 12) & 0xfff00) };
}

export const fileTypes = [stat, statx, statfs, ustat, openHow, cachestatRange, cachestat, fileHandle];
