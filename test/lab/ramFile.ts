import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { PenumbraError } from '../../src/errors.js';
import type { PhysicalMemory, VirtualMemory } from '../../src/target/target.js';

const PAGE = 4096n;
const PRESENT = 1n;
const LARGE = 0x80n;
const ADDRESS = 0x000ffffffffff000n;

/** Guest RAM in a file, one region from address 0: small, slow and independent of the native code, for tests of other rooms. */
export class RamFile implements PhysicalMemory {
  readonly regions: readonly { gpa: bigint; size: bigint }[];
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, 'r');
    this.regions = [{ gpa: 0n, size: BigInt(fstatSync(this.#fd).size) }];
  }

  close(): void {
    closeSync(this.#fd);
  }

  read(gpa: bigint, length: number): Buffer {
    return readFrom(this.regions[0]!.size, gpa, length, (bytes) => readSync(this.#fd, bytes, 0, length, gpa));
  }

  find(needle: Buffer, from: bigint, to: bigint, limit: number): bigint[] {
    const size = this.regions[0]!.size;
    const end = to + BigInt(needle.length) - 1n;
    const bytes = this.read(from, Number((end < size ? end : size) - from));
    return findIn(bytes, needle, from, limit);
  }
}

/** Guest RAM in a buffer, one region from address 0. */
export class RamBuffer implements PhysicalMemory {
  readonly regions: readonly { gpa: bigint; size: bigint }[];

  constructor(readonly bytes: Buffer) {
    this.regions = [{ gpa: 0n, size: BigInt(bytes.length) }];
  }

  read(gpa: bigint, length: number): Buffer {
    const at = Number(gpa);
    return readFrom(this.regions[0]!.size, gpa, length, (bytes) => this.bytes.copy(bytes, 0, at, at + length));
  }

  find(needle: Buffer, from: bigint, to: bigint, limit: number): bigint[] {
    return findIn(this.bytes.subarray(Number(from), Number(to) + needle.length - 1), needle, from, limit);
  }
}

function readFrom(size: bigint, gpa: bigint, length: number, fill: (bytes: Buffer) => number): Buffer {
  if (gpa < 0n || length < 0 || gpa + BigInt(length) > size) {
    throw new PenumbraError('BAD_ADDRESS', `0x${gpa.toString(16)}+${length} lies outside RAM`, { address: gpa });
  }
  const bytes = Buffer.allocUnsafe(length);
  fill(bytes);
  return bytes;
}

function findIn(bytes: Buffer, needle: Buffer, from: bigint, limit: number): bigint[] {
  const found: bigint[] = [];
  for (let at = bytes.indexOf(needle); at >= 0 && found.length < limit; at = bytes.indexOf(needle, at + 1)) {
    found.push(from + BigInt(at));
  }
  return found;
}

/** A page table walk, 4 or 5 levels with 4 KiB, 2 MiB and 1 GiB pages: Intel SDM volume 3A, 4.5. */
export class WalkedMemory implements VirtualMemory {
  constructor(
    private readonly memory: PhysicalMemory,
    readonly root: bigint,
    readonly levels: 4 | 5,
  ) {}

  translate(va: bigint): bigint | undefined {
    const page = this.#page(va);
    return page && page.gpa + (va & (page.size - 1n));
  }

  read(va: bigint, length: number): Buffer {
    const parts: Buffer[] = [];
    for (let at = BigInt.asUintN(64, va), left = length; left > 0; ) {
      const size = Math.min(left, Number(PAGE - (at % PAGE)));
      const gpa = this.translate(at);
      if (gpa === undefined) {
        throw new PenumbraError('NOT_MAPPED', `0x${at.toString(16)} is not mapped`, { address: at });
      }
      parts.push(this.memory.read(gpa, size));
      at += BigInt(size);
      left -= size;
    }
    return Buffer.concat(parts);
  }

  tryRead(va: bigint, length: number): Buffer | undefined {
    try {
      return this.read(va, length);
    } catch {
      return undefined;
    }
  }

  extents(from: bigint, to: bigint): { va: bigint; gpa: bigint; size: bigint }[] {
    const extents: { va: bigint; gpa: bigint; size: bigint }[] = [];
    this.#walkTable(this.root, this.levels === 5 ? 48n : 39n, from, to, ({ va, gpa, size }) => {
      const last = extents.at(-1);
      if (last !== undefined && last.va + last.size === va && last.gpa + last.size === gpa) last.size += size;
      else extents.push({ va, gpa, size });
    });
    return extents;
  }

  /** Calls `found` for each page of [from,to) below a table whose entries cover 2^shift bytes each. */
  #walkTable(
    table: bigint,
    shift: bigint,
    from: bigint,
    to: bigint,
    found: (page: { va: bigint; gpa: bigint; size: bigint }) => void,
  ): void {
    if (table + PAGE > this.memory.regions[0]!.size) return;
    const entries = this.memory.read(table, 4096);
    const size = 1n << shift;
    for (let va = from & ~(size - 1n); va < to; va += size) {
      const entry = entries.readBigUInt64LE(Number((va >> shift) & 511n) * 8);
      if ((entry & PRESENT) === 0n || isReserved(entry, shift)) continue;
      const start = va > from ? va : from;
      const stop = va + size < to ? va + size : to;
      if (isPage(entry, shift)) {
        found({ va: start, gpa: (entry & ADDRESS & ~(size - 1n)) + (start - va), size: stop - start });
      } else {
        this.#walkTable(entry & ADDRESS, shift - 9n, start, stop, found);
      }
    }
  }

  #page(va: bigint): { gpa: bigint; size: bigint } | undefined {
    let table = this.root;
    for (let shift = this.levels === 5 ? 48n : 39n; ; shift -= 9n) {
      const at = table + ((va >> shift) & 511n) * 8n;
      if (at + 8n > this.memory.regions[0]!.size) return undefined;
      const entry = this.memory.read(at, 8).readBigUInt64LE();
      if ((entry & PRESENT) === 0n || isReserved(entry, shift)) return undefined;
      const size = 1n << shift;
      if (isPage(entry, shift)) {
        return { gpa: entry & ADDRESS & ~(size - 1n), size };
      }
      table = entry & ADDRESS;
    }
  }
}

function isPage(entry: bigint, shift: bigint): boolean {
  return shift === 12n || ((shift === 21n || shift === 30n) && (entry & LARGE) !== 0n);
}

/** Bits that make the CPU fault: a large page where there can be none, or one that is not aligned to its size. */
function isReserved(entry: bigint, shift: bigint): boolean {
  if (shift === 12n || (entry & LARGE) === 0n) return false;
  return shift > 30n || (entry & ((1n << shift) - 1n) & ~0x1fffn) !== 0n;
}
