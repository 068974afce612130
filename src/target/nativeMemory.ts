import type { NativeGuest } from '../binding.js';
import { PenumbraError } from '../errors.js';
import type { PhysicalMemory, RamRegion, VirtualMemory } from './target.js';

const hex = (value: bigint): string => `0x${value.toString(16)}`;

/** Guest-physical memory of a live guest, over the addon's shared mappings. */
export class NativePhysicalMemory implements PhysicalMemory {
  readonly #guest: NativeGuest;
  readonly regions: readonly { gpa: bigint; size: bigint }[];

  constructor(guest: NativeGuest, regions: readonly RamRegion[]) {
    this.#guest = guest;
    this.regions = regions.map(({ gpa, size }) => ({ gpa, size }));
  }

  read(gpa: bigint, length: number): Buffer {
    return this.#guest.read(gpa, length);
  }

  find(needle: Buffer, from: bigint, to: bigint, limit: number): bigint[] {
    return this.#guest.find(needle, from, to, limit);
  }

  /** A view through the page table at `root`. */
  openVirtual(root: bigint, levels: 4 | 5): VirtualMemory {
    return new NativeVirtualMemory(this.#guest, root, levels);
  }
}

class NativeVirtualMemory implements VirtualMemory {
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

  extents(from: bigint, to: bigint): { va: bigint; gpa: bigint; size: bigint }[] {
    const words = this.#guest.extents(this.root, this.levels, from, to);
    const extents = [];
    for (let at = 0; at + 2 < words.length; at += 3) {
      extents.push({ va: words[at] as bigint, gpa: words[at + 1] as bigint, size: words[at + 2] as bigint });
    }
    return extents;
  }
}
