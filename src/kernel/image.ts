import { PenumbraError } from '../errors.js';
import type { PhysicalMemory, VirtualMemory } from '../target/target.js';

export interface Extent {
  va: bigint;
  gpa: bigint;
  size: bigint;
}

/**
 * The kernel image as a vCPU's page table maps it: text, rodata, data and bss, without the parts freed after boot.
 * All scans stay within its extents, so their cost does not depend on the guest's RAM.
 */
export class KernelImage {
  /** first mapped address: the runtime `_text` */
  readonly base: bigint;
  /** behind the last mapped address */
  readonly end: bigint;

  constructor(
    readonly memory: PhysicalMemory,
    /** the view in which the image was found */
    readonly view: VirtualMemory,
    readonly extents: readonly Extent[],
  ) {
    const first = extents[0];
    const last = extents.at(-1);
    if (first === undefined || last === undefined) {
      throw new PenumbraError('NO_KERNEL', 'nothing is mapped where a Linux kernel would be');
    }
    this.base = first.va;
    this.end = last.va + last.size;
  }

  /** Guest-physical address of an image address, undefined in a hole or outside. */
  gpaOf(va: bigint): bigint | undefined {
    const extent = this.extents.find((e) => va >= e.va && va < e.va + e.size);
    return extent && extent.gpa + (va - extent.va);
  }

  contains(va: bigint): boolean {
    return this.gpaOf(va) !== undefined;
  }

  /**
   * `length` bytes of the image. Parts that were freed after boot read as zero.
   * @throws PenumbraError NOT_MAPPED when the range leaves the image
   */
  read(va: bigint, length: number): Buffer {
    const to = va + BigInt(length);
    if (length < 0 || va < this.base || to > this.end) {
      throw new PenumbraError('NOT_MAPPED', `0x${va.toString(16)}+${length} leaves the kernel image`, { address: va });
    }
    const whole = this.extents.find((e) => va >= e.va && to <= e.va + e.size);
    if (whole !== undefined) return this.memory.read(whole.gpa + (va - whole.va), length);

    const bytes = Buffer.alloc(length);
    for (const e of this.extents) {
      const start = va > e.va ? va : e.va;
      const stop = to < e.va + e.size ? to : e.va + e.size;
      if (start >= stop) continue;
      this.memory.read(e.gpa + (start - e.va), Number(stop - start)).copy(bytes, Number(start - va));
    }
    return bytes;
  }

  readU64(va: bigint): bigint {
    return this.read(va, 8).readBigUInt64LE();
  }

  /** Addresses of `needle` in the image, in order, at most `limit`. An occurrence over a hole is not seen. */
  find(needle: Buffer, limit: number): bigint[] {
    const found: bigint[] = [];
    for (const e of this.extents) {
      if (found.length >= limit) break;
      for (const gpa of this.memory.find(needle, e.gpa, e.gpa + e.size, limit - found.length)) {
        found.push(e.va + (gpa - e.gpa));
      }
    }
    return found;
  }
}
