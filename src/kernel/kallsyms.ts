import { PenumbraError } from '../errors.js';
import type { KernelImage } from './image.js';
import { type AddressSpan, addressCandidates, areAscending, positions, relativeBase } from './kallsymsAddresses.js';
import { findTokenTables, type TokenTables } from './kallsymsTokens.js';
import { SymbolTable } from './symbolTable.js';

/** A part of the kernel image: bytes from the image's base. */
export interface Span {
  offset: number;
  size: number;
}

/** Where the tables of kallsyms lie. scripts/kallsyms.c writes them, kernel/kallsyms.c reads them. */
export interface Kallsyms extends TokenTables {
  count: number;
  names: Span;
  markers: Span;
  addresses: AddressSpan;
}

export interface FoundKallsyms {
  kallsyms: Kallsyms;
  bytes: KallsymsBytes;
  symbols: SymbolTable;
}

interface Names {
  count: number;
  /** where kallsyms_num_syms lies */
  countAt: number;
  names: Span;
  markers: Span;
}

/** A piece of the image in memory; positions in it are image offsets. */
interface Window {
  start: number;
  words: Uint32Array;
  bytes: Buffer;
}

const MARKED = 256;
/** Names before the token table; 160,000 symbols with their sequence numbers take 3 MB. The second is a last resort. */
const REACHES = [6 << 20, 48 << 20];
/** A kernel has more than 2,000 symbols. */
const MARKERS_MINIMUM = 8;
/** A block of 256 names has at least a length and a token each; the most a name of 512 tokens with two length bytes. */
const BLOCK_MINIMUM = 2 * MARKED;
const BLOCK_LIMIT = 514 * MARKED;
/** Names looked at before a search gives up: forged tables must not cost minutes. */
const STEP_LIMIT = 8_000_000;
/** What looking for the start of the names before one run of markers counts for. */
const PLACES_COST = 1000;

/**
 * Finds and decodes kallsyms in a kernel image, by content: the tables have moved between releases, their shapes have not.
 *
 * @returns where the tables lie, and the decoded symbols; undefined when the image has none
 */
export function findKallsyms(image: KernelImage): FoundKallsyms | undefined {
  const budget = { steps: STEP_LIMIT };
  for (const tokens of findTokenTables(image)) {
    for (const reach of REACHES) {
      for (const names of findNames(windowBefore(image, tokens.tokenTable.offset, reach), budget)) {
        for (const addresses of addressCandidates(image, names.countAt, names.count, tokens.tokenIndex)) {
          const kallsyms = { ...tokens, count: names.count, names: names.names, markers: names.markers, addresses };
          const bytes = readKallsyms(image, kallsyms);
          if (!areAscending(positions(image, addresses, bytes.addresses, bytes.base))) continue;
          const symbols = SymbolTable.decode(image, kallsyms, bytes);
          if (isCredible(image, symbols)) return { kallsyms, bytes, symbols };
        }
      }
    }
  }
  return undefined;
}

/** The tables copied out of the guest. What follows from them follows from their digest: the guest may change its own. */
export interface KallsymsBytes {
  names: Buffer;
  tokenTable: Buffer;
  tokenIndex: Buffer;
  addresses: Buffer;
  /** position of kallsyms_relative_base, see `relativeBase` */
  base: number;
}

/** @throws PenumbraError NOT_MAPPED when a table leaves the image */
export function readKallsyms(image: KernelImage, at: Kallsyms): KallsymsBytes {
  return {
    names: readSpan(image, at.names),
    tokenTable: readSpan(image, at.tokenTable),
    tokenIndex: readSpan(image, at.tokenIndex),
    addresses: readSpan(image, at.addresses),
    base: relativeBase(image, at.addresses),
  };
}

/** @throws PenumbraError NOT_MAPPED when the span leaves the image */
export function readSpan(image: KernelImage, span: Span): Buffer {
  return image.read(image.base + BigInt(span.offset), span.size);
}

/** The text symbol lies in the image, and the banner is where its symbol says. */
function isCredible(image: KernelImage, symbols: SymbolTable): boolean {
  const text = symbols.address('_text') ?? symbols.address('_stext');
  if (text === undefined || !image.contains(text)) return false;
  const banner = symbols.address('linux_banner');
  if (banner === undefined) return true;
  return image.contains(banner) && image.read(banner, 14).toString('latin1') === 'Linux version ';
}

function windowBefore(image: KernelImage, end: number, reach: number): Window {
  const start = Math.max(0, (end - reach) & ~7);
  const raw = image.read(image.base + BigInt(start), (end - start) & ~3);
  const bytes = raw.byteOffset % 4 === 0 ? raw : Buffer.from(new Uint8Array(raw).buffer);
  return { start, bytes, words: new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2) };
}

/**
 * kallsyms_markers is an ascending array that begins with zero; kallsyms_names and kallsyms_num_syms end just before it.
 * What lies between the markers and the token table differs (kallsyms_seqs_of_names: 6.2, and Debian's 6.1).
 */
function* findNames(window: Window, budget: { steps: number }): Generator<Names> {
  // unsigned int since 4.20, unsigned long before
  for (const width of [1, 2]) {
    for (const run of markerRuns(window.words, width)) {
      for (const length of [run.length, run.length - 1]) {
        const names = namesBefore(window, run.first, length, width, budget);
        if (names !== undefined) yield names;
      }
    }
  }
}

/** From the end backwards: the markers lie close before the token table. */
function* markerRuns(words: Uint32Array, width: number): Generator<{ first: number; length: number }> {
  for (let first = words.length; ; ) {
    first = words.lastIndexOf(0, first - 1);
    if (first <= 0) return;
    const length = runLength(words, first, width);
    if (length >= MARKERS_MINIMUM) yield { first, length };
  }
}

function runLength(words: Uint32Array, first: number, width: number): number {
  let length = 1;
  for (let at = first + width; at < words.length; at += width, length++) {
    const step = words[at]! - words[at - width]!;
    if (step < BLOCK_MINIMUM || step > BLOCK_LIMIT || (width === 2 && words[at + 1] !== 0)) break;
  }
  return length;
}

/**
 * The names that end at a run of markers: their start is where a plausible kallsyms_num_syms is followed by names which
 * agree with every marker. The tables are aligned to 8 bytes, to 4 since 7.0.
 */
function namesBefore(
  window: Window,
  firstMarker: number,
  markers: number,
  width: number,
  budget: { steps: number },
): Names | undefined {
  const { words } = window;
  const markersAt = firstMarker * 4;
  const lastMarker = words[firstMarker + (markers - 1) * width]!;
  const isCount = (count: number) => Math.ceil(count / MARKED) === markers;
  const highest = (markersAt - lastMarker - 2) & ~3;
  const lowest = Math.max(8, highest - BLOCK_LIMIT - 8);
  spend(budget, PLACES_COST);
  for (let start = highest; start >= lowest; start -= 4) {
    const before = words[(start >> 2) - 1]!;
    const earlier = words[(start >> 2) - 2]!;
    const padded = before === 0 && isCount(earlier);
    if (!padded && !isCount(before)) continue;
    const count = padded ? earlier : before;
    const markerOf = (block: number) => words[firstMarker + block * width]!;
    if (!namesAgree(window.bytes, start, markersAt, count, markerOf, budget)) continue;
    return {
      count,
      countAt: window.start + start - (padded ? 8 : 4),
      names: { offset: window.start + start, size: markersAt - start },
      markers: { offset: window.start + markersAt, size: markers * width * 4 },
    };
  }
  return undefined;
}

/** Whether `count` names fill [start,end) up to its padding and every 256th begins where its marker says. */
function namesAgree(
  bytes: Buffer,
  start: number,
  end: number,
  count: number,
  markerOf: (block: number) => number,
  budget: { steps: number },
): boolean {
  let at = start;
  for (let i = 0; i < count; i++) {
    if (i % MARKED === 0 && at - start !== markerOf(i / MARKED)) return false;
    if (at >= end) return false;
    const first = bytes[at]!;
    // since 6.1 the length of a long name takes two bytes, ULEB128
    at += first < 0x80 ? 1 + first : 2 + ((first & 0x7f) | (bytes[at + 1]! << 7));
    spend(budget, 1);
  }
  return at <= end && end - at < 8;
}

function spend(budget: { steps: number }, steps: number): void {
  budget.steps -= steps;
  if (budget.steps < 0)
    throw new PenumbraError('CORRUPT', 'kallsyms: too many tables that look like names and are none');
}
