import type { KernelImage } from './image.js';
import type { Span } from './kallsyms.js';

/**
 * How kernel/kallsyms.c, kallsyms_sym_address(), computes an address from the table:
 * - `place`: each 32-bit entry is relative to its own place (7.0)
 * - `base`: relative to kallsyms_relative_base, unsigned (6.15; earlier without CONFIG_KALLSYMS_ABSOLUTE_PERCPU)
 * - `basePercpu`: negative entries are relative to kallsyms_relative_base - 1, others absolute (4.6)
 * - `absolute`: 64-bit addresses (before 4.6, or without CONFIG_KALLSYMS_BASE_RELATIVE up to 6.10)
 */
export type Encoding = 'place' | 'base' | 'basePercpu' | 'absolute';

export interface AddressSpan extends Span {
  encoding: Encoding;
  /** image offset of kallsyms_relative_base, for the encodings that have one */
  relativeBase?: number;
}

const align8 = (n: number) => (n + 7) & ~7;
const align4 = (n: number) => (n + 3) & ~3;

/**
 * The places where the address table may lie, newest first: behind the token index since 6.4, before kallsyms_num_syms
 * until then. The caller tells by decoding which of them it is.
 */
export function addressCandidates(image: KernelImage, countAt: number, count: number, tokenIndex: Span): AddressSpan[] {
  const behind = tokenIndex.offset + tokenIndex.size;
  const candidates: AddressSpan[] = [{ encoding: 'place', offset: align4(behind), size: 4 * count }];
  const after = { offset: align8(behind), size: 4 * count };
  const before = { offset: countAt - 8 - align8(4 * count), size: 4 * count };
  for (const encoding of ['base', 'basePercpu'] as const) {
    candidates.push({ encoding, ...after, relativeBase: align8(after.offset + after.size) });
    candidates.push({ encoding, ...before, relativeBase: countAt - 8 });
  }
  candidates.push({ encoding: 'absolute', offset: align8(behind), size: 8 * count });
  candidates.push({ encoding: 'absolute', offset: align8(countAt - 8 * count - 7), size: 8 * count });
  return candidates.filter((c) => isPlausible(image, c));
}

function isPlausible(image: KernelImage, c: AddressSpan): boolean {
  const size = Number(image.end - image.base);
  if (c.offset < 0 || c.offset + c.size > size) return false;
  if (c.relativeBase === undefined) return true;
  if (c.relativeBase + 8 > size) return false;
  const base = image.readU64(image.base + BigInt(c.relativeBase));
  return base >= image.base && base < image.end;
}

/** Below every position in the image, see `positions`. */
const ABSOLUTE = 2 ** 52;

/** What is not within this distance of the image's base is taken as an absolute value. */
const REACH = 2 ** 40;

/**
 * Positions of the symbols, one number each, in the order of their addresses: bytes from the image's base, or for an
 * absolute value (a per-CPU offset) the value minus ABSOLUTE. Positions do not depend on the slide.
 *
 * @param table the bytes of the address table
 * @param base see `relativeBase`
 */
export function positions(image: KernelImage, span: AddressSpan, table: Buffer, base: number): Float64Array {
  const bytes = new DataView(table.buffer, table.byteOffset, table.length);
  const result = new Float64Array(table.length / (span.encoding === 'absolute' ? 8 : 4));
  switch (span.encoding) {
    case 'place':
      for (let i = 0; i < result.length; i++) result[i] = span.offset + 4 * i + bytes.getInt32(4 * i, true);
      break;
    case 'base':
      for (let i = 0; i < result.length; i++) result[i] = base + bytes.getUint32(4 * i, true);
      break;
    case 'basePercpu':
      for (let i = 0; i < result.length; i++) {
        const offset = bytes.getInt32(4 * i, true);
        result[i] = offset >= 0 ? offset - ABSOLUTE : base - 1 - offset;
      }
      break;
    case 'absolute':
      for (let i = 0; i < result.length; i++) result[i] = positionOf(image, bytes.getBigUint64(8 * i, true));
      break;
  }
  return result;
}

/** scripts/kallsyms.c sorts symbols by address: a table read in the wrong encoding does not ascend. */
export function areAscending(places: Float64Array): boolean {
  for (let i = 1; i < places.length; i++) {
    if (places[i]! < places[i - 1]!) return false;
  }
  return true;
}

/** Position of what kallsyms_relative_base points to, 0 for the encodings without it. */
export function relativeBase(image: KernelImage, span: AddressSpan): number {
  if (span.relativeBase === undefined) return 0;
  return positionOf(image, image.readU64(image.base + BigInt(span.relativeBase)));
}

/** The position of an address, see `positions`. */
export function positionOf(image: KernelImage, address: bigint): number {
  const distance = Number(address - image.base);
  return Math.abs(distance) < REACH ? distance : Number(address) - ABSOLUTE;
}

/** The address at a position, see `positions`. */
export function addressOf(image: KernelImage, position: number): bigint {
  return Math.abs(position) < REACH ? image.base + BigInt(position) : BigInt(position + ABSOLUTE);
}
