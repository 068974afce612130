/**
 * What the inspectors answer with. Names and arguments are bytes: a guest may choose any. Times of files are
 * nanoseconds since the epoch, other times say their unit.
 */
import type { PenumbraError } from '../errors.js';
import type { Utsname } from '../shadow/structs/system.js';

export interface Process {
  pid: number;
  ppid: number;
  /** effective ids */
  uid: number;
  gid: number;
  /** one letter, as proc(5) has it: R S D Z T t I ... */
  state: string;
  /** the program's name, up to 15 bytes; longer for kernel threads */
  comm: Buffer;
  /** empty for kernel threads and zombies */
  args: Buffer[];
  kernelThread: boolean;
  /** ms since the epoch, by the guest's clock */
  startTime: number;
  /** resident memory, bytes */
  rss: number;
  /** virtual memory, bytes */
  vsize: number;
  /** ms of processor time in user mode */
  utime: number;
  /** ms of processor time in the kernel */
  stime: number;
  /** device number of the controlling terminal, 0 without one */
  tty: number;
  pgrp: number;
  session: number;
  priority: number;
  nice: number;
  threads: number;
  /** the processor it last ran on */
  processor: number;
}

export type FileType =
  | 'file'
  | 'directory'
  | 'symlink'
  | 'characterDevice'
  | 'blockDevice'
  | 'fifo'
  | 'socket'
  | 'unknown';

export interface DeviceNumber {
  major: number;
  minor: number;
}

/** What statx(2) says of a file. */
export interface FileStatus {
  type: FileType;
  /** st_mode: file type and permission bits */
  mode: number;
  dev: DeviceNumber;
  ino: bigint;
  nlink: number;
  uid: number;
  gid: number;
  /** bytes */
  size: bigint;
  /** in units of 512 bytes */
  blocks: bigint;
  /** preferred size of one transfer, bytes */
  blksize: number;
  /** which device the file stands for, of a device file */
  rdev?: DeviceNumber;
  atimeNs: bigint;
  mtimeNs: bigint;
  ctimeNs: bigint;
  /** when the file was made, where the file system keeps that */
  btimeNs?: bigint;
}

/** One file by its path. */
export interface NamedFile extends FileStatus {
  path: Buffer;
  /** contents of a symbolic link; undefined too when they could not be read */
  target?: Buffer;
}

/** A name in a directory. `status` is there when it was asked for and the guest gave it. */
export interface DirectoryEntry {
  name: Buffer;
  ino: bigint;
  type: FileType;
  status?: FileStatus;
  target?: Buffer;
}

/** One directory; `path` is as given, with the names below it appended. */
export interface Listing {
  path: Buffer;
  entries: DirectoryEntry[];
}

/** Something that a listing or a search could not read, and went on without. */
export interface Unreadable {
  path: Buffer;
  /** a GuestError with the guest's errno, or why the call did not return (DEVICE_ACCESS: not in the guest's memory) */
  error: PenumbraError;
}

export interface FoundFile {
  path: Buffer;
  type: FileType;
}

/** What uname(2) says: sysname, nodename, release, version, machine, domainname. */
export type SystemName = Utsname;
