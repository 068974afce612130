import type { NativeGuest } from '../binding.js';
import { PenumbraError } from '../errors.js';
import {
  type BulkMemory,
  type Hole,
  type PageWalk,
  type PhysicalMemory,
  type RamRegion,
  type SearchOptions,
  type WalkResult,
  type WordsRead,
  walkResults,
} from './target.js';

type Region = Pick<RamRegion, 'gpa' | 'size'>;

/** Bytes searched before other work of the guest's thread gets its turn. */
const SEARCHED_AT_ONCE = 64n << 20n;

const hex = (value: bigint): string => `0x${value.toString(16)}`;

/** Guest-physical memory of a live guest, over the addon's mappings and, where there are none, the hypervisor's memory. */
export class NativePhysicalMemory implements PhysicalMemory {
  readonly #guest: NativeGuest;
  #regions: readonly Region[];

  constructor(guest: NativeGuest, regions: readonly RamRegion[]) {
    this.#guest = guest;
    this.#regions = regions.map(({ gpa, size }) => ({ gpa, size }));
  }

  get regions(): readonly Region[] {
    return this.#regions;
  }

  /** The guest's RAM is another now: some was plugged or unplugged. The shadow is gone with the old one. */
  async replace(regions: readonly RamRegion[]): Promise<void> {
    this.#regions = regions.map(({ gpa, size }) => ({ gpa, size }));
    await this.#guest.setRam(regions);
  }

  read(gpa: bigint, length: number): Buffer {
    return this.#guest.read(gpa, length);
  }

  find(needle: Buffer, from: bigint, to: bigint, limit: number): bigint[] {
    return this.#guest.find(needle, from, to, limit);
  }

  /** A view through the page table at `root`. */
  openVirtual(root: bigint, levels: 4 | 5): BulkMemory {
    return new NativeVirtualMemory(this.#guest, root, levels);
  }
}

class NativeVirtualMemory implements BulkMemory {
  readonly #guest: NativeGuest;
  readonly root: bigint;
  readonly levels: 4 | 5;

  constructor(guest: NativeGuest, root: bigint, levels: 4 | 5) {
    this.#guest = guest;
    this.root = root;
    this.levels = levels;
  }

  translate(va: bigint): bigint | undefined {
    return this.#guest.translate(this.root, this.levels, va);
  }

  walk(va: bigint): PageWalk {
    const { result, gpa, pageSize, entry } = this.#guest.walk(this.root, this.levels, va);
    return { result: resultOf(result), gpa: result === 0 ? gpa : undefined, pageSize, entry };
  }

  read(va: bigint, length: number): Buffer {
    const bytes = this.#guest.readVirtual(this.root, this.levels, va, length);
    if (bytes.length < length) {
      const address = va + BigInt(bytes.length);
      throw new PenumbraError('NOT_MAPPED', `no page at guest address ${hex(address)}`, { address });
    }
    return bytes;
  }

  tryRead(va: bigint, length: number): Buffer | undefined {
    const bytes = this.#guest.readVirtual(this.root, this.levels, va, length);
    return bytes.length < length ? undefined : bytes;
  }

  readPresent(va: bigint, length: number): { bytes: Buffer; holes: Hole[] } {
    const { bytes, holes: words } = this.#guest.readPresent(this.root, this.levels, va, length);
    const holes: Hole[] = [];
    for (let at = 0; at < words.length; at += 4) {
      const [start, size, result, entry] = words.subarray(at, at + 4) as unknown as [bigint, bigint, bigint, bigint];
      holes.push({ va: start, size, result: resultOf(Number(result)), entry });
    }
    return { bytes, holes };
  }

  readMany(requests: readonly { va: bigint; length: number }[]): (Buffer | undefined)[] {
    const words = new BigUint64Array(requests.length * 2);
    for (const [index, { va, length }] of requests.entries()) {
      words[index * 2] = va;
      words[index * 2 + 1] = BigInt(length);
    }
    const { bytes, lengths } = this.#guest.readScattered(this.root, this.levels, words);
    let start = 0;
    return requests.map(({ length }, index) => {
      const piece = Number(lengths[index]) === length ? bytes.subarray(start, start + length) : undefined;
      start += length;
      return piece;
    });
  }

  readWords(addresses: BigUint64Array): WordsRead {
    return this.#guest.loadWords(this.root, this.levels, addresses);
  }

  async search(needle: Buffer, { from, to, limit, signal }: SearchOptions): Promise<bigint[]> {
    if (needle.length === 0) throw new PenumbraError('BAD_ARGUMENT', 'an empty pattern is everywhere');
    const found: bigint[] = [];
    for (let at = from; at < to && found.length < limit; ) {
      signal?.throwIfAborted();
      const left = limit - found.length;
      const hits = await this.#guest.findVirtual(this.root, this.levels, needle, at, to, left, SEARCHED_AT_ONCE);
      found.push(...hits.addresses);
      // 2^64 comes back as 0.
      at = hits.next === 0n ? to : hits.next;
    }
    return found;
  }

  extents(from: bigint, to: bigint): { va: bigint; gpa: bigint; size: bigint }[] {
    const { words } = this.#guest.extents(this.root, this.levels, from, to);
    const extents = [];
    for (let at = 0; at + 2 < words.length; at += 3) {
      extents.push({ va: words[at] as bigint, gpa: words[at + 1] as bigint, size: words[at + 2] as bigint });
    }
    return extents;
  }
}

function resultOf(index: number): WalkResult {
  return walkResults[index] ?? 'outsideRam';
}
