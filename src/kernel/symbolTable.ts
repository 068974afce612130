import { PenumbraError } from '../errors.js';
import type { KernelImage } from './image.js';
import type { Kallsyms, KallsymsBytes } from './kallsyms.js';
import { addressOf, positionOf, positions } from './kallsymsAddresses.js';
import { NameIndex } from './nameIndex.js';

/** KSYM_NAME_LEN is 512 since 6.1, 128 before */
const NAME_LIMIT = 1024;
/** 160,000 symbols of Debian's kernels make 4 MB of text. */
const TEXT_LIMIT = 128 << 20;

/**
 * All symbols of the kernel image, without those of modules. Names stay in one buffer: a symbol costs no JavaScript
 * object, and decoding them all takes tens of milliseconds.
 */
export class SymbolTable {
  readonly #index: NameIndex;

  private constructor(
    readonly image: KernelImage,
    readonly count: number,
    /** type letter and name of each symbol, one after the other */
    private readonly text: Buffer,
    /** where symbol i begins in `text`; one more for the end */
    private readonly starts: Uint32Array,
    private readonly positions: Float64Array,
  ) {
    // a name begins behind the type letter
    const names = starts.subarray(0, count).map((start) => start + 1);
    this.#index = new NameIndex({ bytes: text, starts: names, ends: starts.subarray(1) });
  }

  /** @throws PenumbraError CORRUPT */
  static decode(image: KernelImage, at: Kallsyms, bytes: KallsymsBytes): SymbolTable {
    const { text, starts } = expandNames(at.count, bytes);
    const places = positions(image, at.addresses, bytes.addresses, bytes.base);
    return new SymbolTable(image, at.count, text, starts, places);
  }

  /** Bytes from the symbol to the next one at another address. */
  distanceToNext(name: string): number | undefined {
    const position = this.position(name);
    if (position === undefined) return undefined;
    let low = 0;
    let high = this.positions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.positions[middle]! <= position) low = middle + 1;
      else high = middle;
    }
    const next = this.positions[low];
    return next === undefined ? undefined : next - position;
  }

  /** Position of a symbol, see `positions`; of several with the same name the lowest. */
  position(name: string): number | undefined {
    const i = this.#index.first(name);
    return i === undefined ? undefined : this.positions[i];
  }

  address(name: string): bigint | undefined {
    const position = this.position(name);
    return position === undefined ? undefined : addressOf(this.image, position);
  }

  /** The symbol that covers an address of the image; of several at one address the first, as the kernel prints it. */
  covering(address: bigint): { name: string; offset: bigint } | undefined {
    if (address < this.image.base || address >= this.image.end) return undefined;
    const wanted = positionOf(this.image, address);
    let low = 0;
    let high = this.count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.positions[middle]! <= wanted) low = middle + 1;
      else high = middle;
    }
    let i = low - 1;
    if (i < 0) return undefined;
    while (i > 0 && this.positions[i - 1] === this.positions[i]) i--;
    const start = addressOf(this.image, this.positions[i]!);
    return start < this.image.base ? undefined : { name: this.#name(i), offset: address - start };
  }

  *entries(): Generator<{ name: string; type: string; address: bigint }> {
    for (let i = 0; i < this.count; i++) {
      const type = String.fromCharCode(this.text[this.starts[i]!] ?? 0);
      yield { name: this.#name(i), type, address: addressOf(this.image, this.positions[i]!) };
    }
  }

  #name(i: number): string {
    return this.text.toString('latin1', this.starts[i]! + 1, this.starts[i + 1]);
  }
}

/** Undoes the compression: each byte of a name stands for a token. */
function expandNames(count: number, bytes: KallsymsBytes): { text: Buffer; starts: Uint32Array } {
  const { names, tokenTable } = bytes;
  const { tokenStart, tokenLength } = tokens(bytes);
  const starts = new Uint32Array(count + 1);
  let text = Buffer.allocUnsafe(names.length * 3);
  let to = 0;
  let at = 0;
  for (let i = 0; i < count; i++) {
    let length = names[at++] ?? 0;
    if (length & 0x80) length = (length & 0x7f) | ((names[at++] ?? 0) << 7);
    if (at + length > names.length) {
      throw new PenumbraError('CORRUPT', `kallsyms: name ${i} of ${count} runs behind the names`);
    }
    starts[i] = to;
    if (to > TEXT_LIMIT) throw new PenumbraError('CORRUPT', 'kallsyms: the names expand beyond all measure');
    if (to + NAME_LIMIT + 256 > text.length) text = Buffer.concat([text], text.length * 2 + 2 * NAME_LIMIT);
    const limit = to + NAME_LIMIT;
    for (const end = at + length; at < end; at++) {
      const token = names[at]!;
      let from = tokenStart[token]!;
      for (const stop = from + tokenLength[token]!; from < stop; from++) text[to++] = tokenTable[from]!;
      if (to > limit) throw new PenumbraError('CORRUPT', `kallsyms: name ${i} is longer than any name may be`);
    }
  }
  starts[count] = to;
  return { text: text.subarray(0, to), starts };
}

function tokens(bytes: KallsymsBytes): { tokenStart: Uint16Array; tokenLength: Uint8Array } {
  const tokenStart = new Uint16Array(256);
  const tokenLength = new Uint8Array(256);
  for (let token = 0; token < 256; token++) {
    const start = bytes.tokenIndex.readUInt16LE(2 * token);
    const end = bytes.tokenTable.indexOf(0, start);
    if (start >= bytes.tokenTable.length || end < 0 || end - start > 255) {
      throw new PenumbraError('CORRUPT', `kallsyms: token ${token} lies outside the token table`);
    }
    tokenStart[token] = start;
    tokenLength[token] = end - start;
  }
  return { tokenStart, tokenLength };
}
