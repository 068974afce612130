import { setTimeout as sleep } from 'node:timers/promises';
import { PenumbraError } from '../errors.js';
import { AT_EMPTY_PATH, AT_FDCWD, O_NONBLOCK, O_RDONLY, O_WRONLY, SEEK_SET } from '../shadow/constants.js';
import { errnoName, errnoOfResult } from '../shadow/errno.js';
import { CallError, timeToMoveOn, worthAnotherStop } from '../shadow/failure.js';
import { NativeArgumentKind, type NativeStepResult } from '../shadow/nativeCall.js';
import { bytesOf, out, StepList, value } from '../shadow/stepList.js';
import { requireStatus, requireSuccess } from './fileStatus.js';
import { printablePath, withoutNul } from './guestPath.js';
import { Moment, type ShadowSource } from './moment.js';
import { aboutPath, needsDevice } from './notInMemory.js';
import type { FileStatus } from './records.js';

/** Takes a file piece by piece. What it returns is awaited before it gets the next one. */
export type Sink = (piece: Buffer) => void | Promise<void>;

const MIB = 1 << 20;
/** A regular file of known size; several such pieces are asked for at once. */
const LARGE_PIECE = MIB;
const LARGE_PIECES_AT_ONCE = 8;
/** Files of /proc and /sys, devices, pipes: some of them allocate what is asked for. */
const SMALL_PIECE = 1 << 16;
const SMALL_PIECES_AT_ONCE = 4;
const CAUTIOUS_PIECE = 1 << 16;
/** How long the guest stands still for a sink that is busy, ms. */
const SINK_PATIENCE = 200;
/** uapi linux/fs.h: the kernel answers EAGAIN instead of reading the disk (so since 5.9; files that cannot: EOPNOTSUPP). */
const RWF_NOWAIT = 8;
const MOST_ATTEMPTS = 3;
const IOVEC_SIZE = 16;
const PAGE_SIZE = 4096;
const emptyPath = { kind: NativeArgumentKind.in, bytes: Buffer.alloc(1) };

/**
 * Gives a file's contents to `sink`, as far as they are in the guest's memory. The guest stands still meanwhile, so
 * that they are of one moment; when the sink keeps it waiting, the guest runs on, and the rest is of a later moment.
 * @returns the number of bytes
 * @throws GuestError; PenumbraError DEVICE_ACCESS with the first offset that only the guest's disk has
 */
export async function readFile(source: ShadowSource, path: string | Buffer, sink: Sink): Promise<bigint> {
  await using moment = new Moment(source);
  const reading = new Reading(moment, withoutNul(path));
  for (let pieces = await reading.next(); pieces.length > 0; pieces = await reading.next()) {
    for (const piece of pieces) await patiently(moment, sink(piece));
  }
  return reading.position;
}

/** The same as one Buffer. @throws PenumbraError UNSUPPORTED when there are more than `limit` bytes */
export async function readWholeFile(source: ShadowSource, path: string | Buffer, limit = 256 * MIB): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let size = 0;
  await readFile(source, path, (piece) => {
    size += piece.length;
    if (size > limit) {
      const name = printablePath(withoutNul(path));
      throw new PenumbraError('UNSUPPORTED', `${name} has more than ${limit} bytes (read it in pieces)`);
    }
    pieces.push(piece);
  });
  return Buffer.concat(pieces);
}

/** Lets the guest run on when the sink takes its time. */
async function patiently(moment: Moment, busy: void | Promise<void>): Promise<void> {
  if (busy === undefined) return;
  const timeout = new AbortController();
  const late = sleep(SINK_PATIENCE, 'late', { signal: timeout.signal }).catch(() => undefined);
  try {
    if ((await Promise.race([busy, late])) === 'late') await moment.end();
  } finally {
    timeout.abort();
  }
  await busy;
}

interface OpenFile {
  fd: bigint;
  generation: number;
  status: FileStatus;
}

/** A file being read from its beginning to its end, over as many moments as it takes. */
class Reading {
  readonly #moment: Moment;
  readonly #path: Buffer;
  #file: OpenFile | undefined;
  /** after a call that did not return: ask the kernel for what it has in memory only */
  #cautious = false;
  #nowaitWorks = true;
  #ended = false;
  position = 0n;

  constructor(moment: Moment, path: Buffer) {
    this.#moment = moment;
    this.#path = path;
  }

  /** The next pieces; none at the end of the file. */
  async next(): Promise<Buffer[]> {
    for (let attempt = 0; ; attempt += 1) {
      if (this.#ended) return [];
      try {
        const pieces = await this.#read();
        for (const piece of pieces) this.position += BigInt(piece.length);
        return pieces;
      } catch (error) {
        if (!isPassing(error, attempt)) throw this.#explain(error);
        this.#cautious = true;
        await this.#moment.end();
        await sleep(timeToMoveOn(attempt));
      }
    }
  }

  async #read(): Promise<Buffer[]> {
    const file = await this.#open();
    if (this.#cautious && this.#nowaitWorks && file.status.type === 'file') return this.#readFromMemory(file);
    return this.#readOn(file);
  }

  /** The file, open in the present shadow at the present position. */
  async #open(): Promise<OpenFile> {
    if (this.#file !== undefined && this.#file.generation === this.#moment.generation && this.#moment.isOpen) {
      return this.#file;
    }
    const list = new StepList();
    if (this.#cautious && this.#file !== undefined) switchReadaheadOff(list, this.#file.status);
    const fd = list.open(AT_FDCWD, this.#path, O_RDONLY | O_NONBLOCK);
    const status = list.add('statx', value(fd), emptyPath, value(AT_EMPTY_PATH), value(0xfff), out(256));
    const seek = this.position === 0n ? undefined : list.add('lseek', value(fd), value(this.position), value(SEEK_SET));
    const results = await this.#moment.run(list.steps);
    const opened = requireSuccess(results, fd.step, 'openat', this.#path);
    const found = requireStatus(results, status, this.#path);
    if (seek !== undefined) requireSuccess(results, seek, 'lseek', this.#path);
    if (this.#file !== undefined && !isSame(this.#file.status, found)) throw this.#replaced();
    this.#file = { fd: opened, generation: this.#moment.generation, status: found };
    return this.#file;
  }

  async #readOn({ fd, status }: OpenFile): Promise<Buffer[]> {
    const isLarge = status.type === 'file' && status.size > 0n && !this.#cautious;
    const size = isLarge ? Math.min(LARGE_PIECE, roundUp(status.size - this.position)) : SMALL_PIECE;
    const list = new StepList();
    const count = this.#cautious ? 1 : isLarge ? piecesLeft(status.size - this.position, size) : SMALL_PIECES_AT_ONCE;
    const steps = Array.from({ length: count }, () => list.readOnce(fd, this.#cautious ? PAGE_SIZE : size));
    const results = await this.#moment.run(list.steps);
    const pieces: Buffer[] = [];
    for (const step of steps) {
      const bytes = bytesOf(results, step);
      // An error counts only when nothing came before it; otherwise the next call meets it again.
      if (bytes === undefined && pieces.length === 0) requireSuccess(results, step, 'read', this.#path);
      if (bytes === undefined) break;
      this.#ended = bytes.length === 0;
      if (this.#ended) break;
      pieces.push(bytes);
    }
    return pieces;
  }

  /** preadv2(2) that gives what is cached and EAGAIN where the disk would be needed. */
  async #readFromMemory(file: OpenFile): Promise<Buffer[]> {
    const list = new StepList();
    const position = value(this.position);
    const iovec = Buffer.alloc(IOVEC_SIZE + CAUTIOUS_PIECE);
    iovec.writeBigUInt64LE(BigInt(CAUTIOUS_PIECE), 8);
    const buffer = { kind: NativeArgumentKind.inout, bytes: iovec, fixups: [{ offset: 0, target: IOVEC_SIZE }] };
    const step = list.add('preadv2', value(file.fd), buffer, value(1), position, value(0), value(RWF_NOWAIT));
    const results = await this.#moment.run(list.steps);
    const answer = results[step] as NativeStepResult;
    const errno = errnoOfResult(answer.value);
    if (errno !== undefined && errnoName(errno) === 'EOPNOTSUPP') {
      this.#nowaitWorks = false;
      await this.#seek(file);
      return this.#readOn(file);
    }
    if (errno !== undefined && errnoName(errno) === 'EAGAIN') return this.#readPage(file);
    const length = Number(requireSuccess(results, step, 'preadv2', this.#path));
    const bytes = answer.out[1]?.subarray(IOVEC_SIZE, IOVEC_SIZE + Math.min(length, CAUTIOUS_PIECE));
    return bytes === undefined || bytes.length === 0 ? [] : [bytes];
  }

  /** EAGAIN also stands for a page that is there, but meant to have the next ones read ahead. */
  async #readPage({ fd }: OpenFile): Promise<Buffer[]> {
    const list = new StepList();
    const buffer = { ...out(PAGE_SIZE), lengthIsResult: true };
    const step = list.add('pread64', value(fd), buffer, value(PAGE_SIZE), value(this.position));
    const results = await this.#moment.run(list.steps);
    requireSuccess(results, step, 'pread64', this.#path);
    const bytes = bytesOf(results, step);
    return bytes === undefined || bytes.length === 0 ? [] : [bytes];
  }

  async #seek({ fd }: OpenFile): Promise<void> {
    const list = new StepList();
    list.add('lseek', value(fd), value(this.position), value(SEEK_SET));
    await this.#moment.run(list.steps);
  }

  #explain(error: unknown): unknown {
    if (!needsDevice(error)) return error;
    if (this.#file?.status.type !== 'file') return aboutPath(error, this.#path);
    const message = `${printablePath(this.#path)}: not in the guest's page cache (offset ${this.position})`;
    return new PenumbraError('DEVICE_ACCESS', message, { cause: error });
  }

  #replaced(): PenumbraError {
    const message = `${printablePath(this.#path)} was replaced in the guest before it was read to its end`;
    return new PenumbraError('TIMEOUT', message);
  }
}

/** Whether the same may go better in another moment. */
function isPassing(error: unknown, attempt: number): boolean {
  if (!(error instanceof CallError) || !worthAnotherStop(error, attempt)) return false;
  return error.code === 'LOCKED' || attempt < MOST_ATTEMPTS;
}

/**
 * Sets the read-ahead of the file's device to 0, in the shadow, for files opened afterwards: reading what is in memory
 * then asks the disk for nothing. The device may be a partition. Nothing depends on its success.
 */
function switchReadaheadOff(list: StepList, { dev }: FileStatus): void {
  const device = `/sys/dev/block/${dev.major}:${dev.minor}`;
  for (const path of [`${device}/bdi/read_ahead_kb`, `${device}/../bdi/read_ahead_kb`]) {
    const fd = list.open(AT_FDCWD, Buffer.from(path), O_WRONLY);
    list.add('write', value(fd), { kind: NativeArgumentKind.in, bytes: Buffer.from('0') }, value(1));
    list.close(fd);
  }
}

function isSame(a: FileStatus, b: FileStatus): boolean {
  return a.ino === b.ino && a.dev.major === b.dev.major && a.dev.minor === b.dev.minor;
}

/** Whole pages, and more than is left. */
function roundUp(left: bigint): number {
  return left < 0n ? PAGE_SIZE : (Number(left / BigInt(PAGE_SIZE)) + 1) * PAGE_SIZE;
}

/** One more than the file seems to need: it finds the end. */
function piecesLeft(left: bigint, size: number): number {
  const wanted = left / BigInt(size) + 2n;
  return wanted > BigInt(LARGE_PIECES_AT_ONCE) ? LARGE_PIECES_AT_ONCE : Math.max(1, Number(wanted));
}
