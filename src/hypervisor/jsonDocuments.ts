import { PenumbraError } from '../errors.js';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN = 0x7b;
const CLOSE = 0x7d;

/**
 * Cuts a byte stream into JSON objects. A QMP monitor sends one per line, but with `pretty=on` one over many lines, so
 * it is the braces that are counted. Bytes between objects are dropped.
 */
export class JsonDocuments {
  #chunks: Buffer[] = [];
  #size = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** @param limit the largest object in bytes; a larger one throws PenumbraError QMP */
  constructor(private readonly limit: number) {}

  /** The objects that are complete with this chunk, as text. */
  push(chunk: Buffer): string[] {
    const documents: string[] = [];
    let start = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i];
      if (this.#inString) {
        this.#string(byte);
      } else if (byte === OPEN) {
        if (this.#depth++ === 0) start = i;
      } else if (byte === CLOSE && this.#depth > 0) {
        if (--this.#depth === 0) documents.push(this.#finish(chunk.subarray(start, i + 1)));
      } else if (byte === QUOTE && this.#depth > 0) {
        this.#inString = true;
      }
    }
    if (this.#depth > 0) this.#keep(chunk.subarray(start));
    return documents;
  }

  #string(byte: number | undefined): void {
    if (this.#escaped) this.#escaped = false;
    else if (byte === BACKSLASH) this.#escaped = true;
    else if (byte === QUOTE) this.#inString = false;
  }

  #keep(part: Buffer): void {
    this.#size += part.length;
    if (this.#size > this.limit)
      throw new PenumbraError('QMP', `QEMU sends a message of more than ${this.limit} bytes`);
    this.#chunks.push(part);
  }

  #finish(part: Buffer): string {
    this.#keep(part);
    const text = Buffer.concat(this.#chunks).toString('utf8');
    this.#chunks = [];
    this.#size = 0;
    return text;
  }
}
