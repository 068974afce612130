import type { Hole } from '../target/target.js';
import type { Kernel } from './kernel.js';

/**
 * Why a page of a process cannot be read from RAM.
 *
 * - `notPresent`: nobody touched it yet, or its contents are in a file
 * - `swapped`: its contents are in swap space
 * - `inaccessible`: in RAM, but the process itself may not touch it now (PROT_NONE, or sampled by NUMA balancing)
 * - `inTransit`: being migrated, poisoned, or in a device's memory
 * - `notCanonical`: no such address
 * - `corrupt`: the page tables say what no kernel writes
 */
export type AbsenceReason = 'notPresent' | 'swapped' | 'inaccessible' | 'inTransit' | 'notCanonical' | 'corrupt';

export interface AbsentRange {
  /** guest-virtual */
  address: bigint;
  /** bytes */
  size: bigint;
  reason: AbsenceReason;
  /** where the first of its pages is in swap space: number of the swap area, and of the page in it */
  swap?: { area: number; page: bigint };
}

// arch/x86/include/asm/pgtable_64.h: an entry that is not present holds the swap type in its top five bits and below it the
// inverted offset, since 4.18, bcd11afa7ade (L1TF). Bit 8 means PROT_NONE: pgtable_types.h, _PAGE_BIT_PROTNONE.
const PROT_NONE = 1n << 8n;
const TYPE_BITS = 5n;
const TYPE_SHIFT = 64n - TYPE_BITS;
const OFFSET_SHIFT = 9n + TYPE_BITS;

/** What the kernel means by the entries of a range that cannot be read. */
export function explainHole(kernel: Kernel, { va, size, result, entry }: Hole): AbsentRange {
  const range = { address: va, size };
  if (result === 'notCanonical') return { ...range, reason: 'notCanonical' };
  if (result !== 'notPresent') return { ...range, reason: 'corrupt' };
  if (entry === 0n) return { ...range, reason: 'notPresent' };
  if ((entry & PROT_NONE) !== 0n) return { ...range, reason: 'inaccessible' };
  const area = Number(entry >> TYPE_SHIFT);
  if (area >= swapAreas(kernel)) return { ...range, reason: 'inTransit' };
  const page = BigInt.asUintN(64, ~entry << TYPE_BITS) >> OFFSET_SHIFT;
  return { ...range, reason: 'swapped', swap: { area, page } };
}

/** Types from the top down are not swap areas but migration, poison and devices: include/linux/swap.h, MAX_SWAPFILES. */
function swapAreas(kernel: Kernel): number {
  const address = kernel.symbol('nr_swapfiles');
  return address === undefined ? LEAST_SWAP_AREAS : kernel.virtual.read(address, 4).readUInt32LE();
}

/** MAX_SWAPFILES with all that a kernel may be configured with. */
const LEAST_SWAP_AREAS = 23;

const WORDS: Record<AbsenceReason, string> = {
  notPresent: 'not present (never touched, or only in a file)',
  swapped: 'swapped out',
  inaccessible: 'inaccessible to the process itself (PROT_NONE)',
  inTransit: 'being migrated, poisoned or in a device',
  notCanonical: 'no address that there is',
  corrupt: 'mapped to where no RAM is, or by a page table that no kernel writes',
};

/** `swapped out (swap area 0, page 77)` */
export function absenceText({ reason, swap }: Pick<AbsentRange, 'reason' | 'swap'>): string {
  return swap === undefined ? WORDS[reason] : `${WORDS[reason]} (swap area ${swap.area}, page ${swap.page})`;
}
