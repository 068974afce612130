import { PenumbraError } from '../errors.js';
import type { PhysicalMemory, VcpuState, VirtualMemory } from '../target/target.js';
import { type Extent, KernelImage } from './image.js';

/** A view of guest memory through a page table root. */
export type OpenVirtual = (root: bigint, levels: 4 | 5) => VirtualMemory;

/** Where x86-64 Linux maps its image, with or without KASLR: arch/x86/include/asm/page_64_types.h, KERNEL_IMAGE_SIZE. */
const IMAGE_FROM = 0xffffffff80000000n;
const IMAGE_TO = 0xffffffffc0000000n;

/** No kernel image is larger; a forged page table may map the whole range. */
const IMAGE_LIMIT = 256n << 20n;
const EXTENT_LIMIT = 4096;

/** Less than this is the entry trampoline of a PTI user page table, not a kernel. */
const IMAGE_MINIMUM = 4n << 20n;

// Intel SDM volume 3A, 2.5 and 2.2.1
const CR0_PG = 1n << 31n;
const CR4_LA57 = 1n << 12n;
const EFER_LMA = 1n << 10n;
const CR3_ADDRESS = 0x000ffffffffff000n;

/** With PTI the user half of a page table pair lies one page above the kernel half: arch/x86/include/asm/pgtable.h. */
const PTI_PGTABLE_SWITCH_BIT = 1n << 12n;

/**
 * Finds the kernel image through the page table of the first vCPU that runs in long mode.
 *
 * @throws PenumbraError NO_KERNEL with what each vCPU showed
 */
export function locateImage(
  memory: PhysicalMemory,
  openVirtual: OpenVirtual,
  vcpus: readonly VcpuState[],
): KernelImage {
  const seen: string[] = [];
  for (const vcpu of vcpus) {
    const refusal = whyNotLongMode(vcpu);
    if (refusal !== undefined) {
      seen.push(`vCPU ${vcpu.index}: ${refusal}`);
      continue;
    }
    const levels = (vcpu.cr4 & CR4_LA57) === 0n ? 4 : 5;
    const root = vcpu.cr3 & CR3_ADDRESS;
    const image = largestMapping(memory, openVirtual, [root, root & ~PTI_PGTABLE_SWITCH_BIT], levels);
    if (image !== undefined) return image;
    seen.push(`vCPU ${vcpu.index}: cr3 0x${vcpu.cr3.toString(16)} maps no kernel at 0x${IMAGE_FROM.toString(16)}`);
  }
  throw new PenumbraError('NO_KERNEL', `no Linux kernel: ${seen.join('; ') || 'the target has no vCPU'}`);
}

function whyNotLongMode(vcpu: VcpuState): string | undefined {
  if ((vcpu.cr0 & CR0_PG) === 0n) return `paging is off (cr0 0x${vcpu.cr0.toString(16)})`;
  if ((vcpu.efer & EFER_LMA) === 0n) return `not in long mode (efer 0x${vcpu.efer.toString(16)})`;
  return undefined;
}

/** Of two roots the one that maps more of the image; the first wins a draw, so a neighbouring page table is not taken. */
function largestMapping(
  memory: PhysicalMemory,
  openVirtual: OpenVirtual,
  roots: readonly bigint[],
  levels: 4 | 5,
): KernelImage | undefined {
  let best: KernelImage | undefined;
  let bestSize = IMAGE_MINIMUM - 1n;
  for (const root of new Set(roots)) {
    const view = openVirtual(root, levels);
    const extents = boundedExtents(memory, view);
    const size = extents.reduce((sum, e) => sum + e.size, 0n);
    if (size > bestSize) {
      best = new KernelImage(memory, view, extents);
      bestSize = size;
    }
  }
  return best;
}

/** The image is contiguous in physical memory; what lies at another distance is a module (KASLR not built in). */
function boundedExtents(memory: PhysicalMemory, view: VirtualMemory): Extent[] {
  const extents: Extent[] = [];
  let total = 0n;
  for (const e of view.extents(IMAGE_FROM, IMAGE_TO)) {
    const first = extents[0];
    if (!inRam(memory, e) || (first !== undefined && e.va - e.gpa !== first.va - first.gpa)) continue;
    total += e.size;
    if (total > IMAGE_LIMIT || extents.length === EXTENT_LIMIT) break;
    extents.push(e);
  }
  return extents;
}

function inRam(memory: PhysicalMemory, e: Extent): boolean {
  return memory.regions.some((r) => e.gpa >= r.gpa && e.gpa + e.size <= r.gpa + r.size);
}
