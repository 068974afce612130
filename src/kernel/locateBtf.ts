import { BTF_MAGIC, btfLength } from './btfTypes.js';
import type { KernelImage } from './image.js';
import type { Span } from './kallsyms.js';
import type { SymbolTable } from './symbolTable.js';

/** The kernel's own BTF takes 3 to 8 MiB. */
const BTF_LIMIT = 64 << 20;
/** Less than this is the BTF of something else, or a constant in the code. */
const BTF_MINIMUM = 64 << 10;
/** magic, version 1, no flags, header of 24 bytes */
const HEADER = Buffer.from([BTF_MAGIC & 0xff, BTF_MAGIC >> 8, 1, 0, 24, 0, 0, 0]);
const OCCURRENCES = 64;

/** Where the kernel's BTF lies: by its symbols (include/asm-generic/vmlinux.lds.h), or by its magic where they are missing. */
export function locateBtf(image: KernelImage, symbols: SymbolTable): Span | undefined {
  const start = symbols.address('__start_BTF');
  const candidates = start === undefined ? image.find(HEADER, OCCURRENCES) : [start];
  for (const va of candidates) {
    const size = sizeAt(image, va);
    if (size !== undefined) return { offset: Number(va - image.base), size };
  }
  return undefined;
}

function sizeAt(image: KernelImage, va: bigint): number | undefined {
  const room = Number(image.end - va);
  if (!image.contains(va) || room < BTF_MINIMUM) return undefined;
  const size = btfLength(image.read(va, 64));
  return size === undefined || size < BTF_MINIMUM || size > BTF_LIMIT || size > room ? undefined : size;
}
