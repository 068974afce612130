import { PenumbraError } from '../errors.js';
import type { KernelImage } from './image.js';
import type { Kernel } from './kernel.js';

/** The entry of the top level that maps the kernel image, with 4 levels and with 5. */
const IMAGE_ENTRY = 511n;
const PRESENT = 1n;
/** With PTI the user half of a pair of page tables lies one page above the kernel half: arch/x86/include/asm/pgtable.h. */
const USER_HALF = 0x1000n;

/** Guest-physical address of the kernel's own page table root. */
export function kernelRoot(kernel: Pick<Kernel, 'symbol'>, image: KernelImage): bigint {
  // init_level4_pgt up to 4.12, 65ade2f872b4
  const table = kernel.symbol('init_top_pgt') ?? kernel.symbol('init_level4_pgt');
  return (table === undefined ? undefined : image.gpaOf(table)) ?? image.view.root;
}

/**
 * Whether page table isolation is in force: pti_init() has then put the entry code into the user half of the kernel's
 * root, which otherwise stays empty: arch/x86/mm/pti.c. A kernel without pti_init has no user half there.
 */
export function isIsolated(kernel: Pick<Kernel, 'symbol'>, image: KernelImage, root: bigint): boolean {
  if (kernel.symbol('pti_init') === undefined) return false;
  const entry = image.memory.read(root + USER_HALF + 8n * IMAGE_ENTRY, 8).readBigUInt64LE();
  return (entry & PRESENT) !== 0n;
}

/**
 * Guest-physical page table root of an address space, for the kernel's half of its pair.
 *
 * @param mm address of a struct mm_struct
 * @throws PenumbraError NOT_MAPPED, CORRUPT when its pgd points nowhere
 */
export function rootOf(kernel: Kernel, mm: bigint): bigint {
  const pgd = kernel.virtual.read(mm + BigInt(kernel.requireOffset('mm_struct.pgd')), 8).readBigUInt64LE();
  const root = kernel.virtual.translate(pgd);
  if (root === undefined || pgd % 4096n !== 0n) {
    throw new PenumbraError('CORRUPT', `mm_struct: pgd 0x${pgd.toString(16)} is no page table`, { address: mm });
  }
  return root;
}
