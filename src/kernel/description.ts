import { createHash } from 'node:crypto';
import type { KernelImage } from './image.js';
import type { Kallsyms, KallsymsBytes, Span } from './kallsyms.js';
import { relativeBase } from './kallsymsAddresses.js';
import type { Parameter } from './kernel.js';

/** Answers that a kernel gave, by question. null stands for: there is no such thing. */
export interface Answers {
  /** position of a symbol, see `positions` in kallsymsAddresses.ts: independent of the slide */
  symbols: Record<string, number | null>;
  offsets: Record<string, number | null>;
  sizes: Record<string, number | null>;
  /** [bitOffset, bitSize] */
  members: Record<string, [number, number] | null>;
  /** decimal */
  enumerators: Record<string, string | null>;
  parameters: Record<string, Parameter[] | null>;
}

/**
 * What is worth remembering of a kernel: where its tables lie in the image, and the answers given so far. Both follow
 * from the bytes that the digests cover, so they hold for every guest with the same digests, whatever its slide or banner.
 * Answers must only ever be computed from bytes whose digest was taken, or one guest could forge them for another.
 */
export interface Description {
  kallsyms: Kallsyms;
  btf: Span | null;
  digests: Digests;
  answers: Answers;
}

/** SHA-256, hexadecimal */
export interface Digests {
  kallsyms: string;
  /** null for a kernel without BTF */
  btf: string | null;
}

export function noAnswers(): Answers {
  return { symbols: {}, offsets: {}, sizes: {}, members: {}, enumerators: {}, parameters: {} };
}

/** The name of a description: one hash over both digests. */
export function keyOf(digests: Digests): string {
  return createHash('sha256').update(`${digests.kallsyms} ${digests.btf}`).digest('hex');
}

/** Over where the tables stand, their bytes, and what the entries of the address table are relative to, without the slide. */
export function digestKallsyms(at: Kallsyms, bytes: KallsymsBytes): string {
  const hash = createHash('sha256').update(JSON.stringify([at, bytes.base]));
  for (const table of TABLES) hash.update(bytes[table]);
  return hash.digest('hex');
}

export function digestBtf(at: Span, bytes: Buffer): string {
  return createHash('sha256').update(JSON.stringify(at)).update(bytes).digest('hex');
}

/**
 * The digests of what a guest has at the places of a description.
 *
 * @throws PenumbraError NOT_MAPPED when a table leaves the image
 */
export function digestsAt(image: KernelImage, { kallsyms, btf }: Pick<Description, 'kallsyms' | 'btf'>): Digests {
  const base = relativeBase(image, kallsyms.addresses);
  const spans = TABLES.map((table) => kallsyms[table]);
  return {
    kallsyms: digestInPieces(image, JSON.stringify([kallsyms, base]), spans),
    btf: btf && digestInPieces(image, JSON.stringify(btf), [btf]),
  };
}

const TABLES = ['names', 'tokenTable', 'tokenIndex', 'addresses'] as const;

/** A small buffer stays in the processor's cache. */
const PIECE = 256 << 10;

function digestInPieces(image: KernelImage, head: string, spans: readonly Span[]): string {
  const hash = createHash('sha256').update(head);
  for (const span of spans) {
    for (let done = 0; done < span.size; done += PIECE) {
      const va = image.base + BigInt(span.offset + done);
      hash.update(image.read(va, Math.min(PIECE, span.size - done)));
    }
  }
  return hash.digest('hex');
}
