import { randomBytes } from 'node:crypto';

/** Where the names of a table lie: name i is [starts[i], ends[i]) of `bytes`. */
export interface NameList {
  bytes: Buffer;
  starts: Uint32Array;
  ends: Uint32Array;
}

/**
 * Finds entries by name without making a string of each: chains of entries per FNV-1a hash. The hash begins with a number
 * of this process, so that a guest cannot prepare names that collide.
 */
export class NameIndex {
  readonly #basis = randomBytes(4).readInt32LE();
  readonly #mask: number;
  /** first entry + 1 per hash, 0 for none */
  readonly #heads: Uint32Array;
  /** the next entry + 1 with the same hash */
  readonly #next: Uint32Array;

  constructor(private readonly names: NameList) {
    const { bytes, starts, ends } = names;
    const size = 2 ** Math.max(4, 32 - Math.clz32(starts.length));
    this.#mask = size - 1;
    this.#heads = new Uint32Array(size);
    this.#next = new Uint32Array(starts.length);
    this.#fill(bytes, starts, ends);
  }

  /** The lowest entry with this name. */
  first(name: string): number | undefined {
    return this.all(name).next().value;
  }

  /** Every entry with this name, in order. */
  *all(name: string): Generator<number, undefined> {
    const wanted = Buffer.from(name);
    const { bytes, starts, ends } = this.names;
    for (let entry = this.#heads[this.#hash(wanted, 0, wanted.length)]!; entry !== 0; entry = this.#next[entry - 1]!) {
      if (bytes.compare(wanted, 0, wanted.length, starts[entry - 1], ends[entry - 1]) === 0) yield entry - 1;
    }
    return undefined;
  }

  /** From the last entry to the first, so that each chain begins with the lowest. */
  #fill(bytes: Uint8Array, starts: Uint32Array, ends: Uint32Array): void {
    const [heads, next] = [this.#heads, this.#next];
    for (let i = starts.length - 1; i >= 0; i--) {
      const slot = this.#hash(bytes, starts[i]!, ends[i]!);
      next[i] = heads[slot]!;
      heads[slot] = i + 1;
    }
  }

  #hash(bytes: Uint8Array, from: number, to: number): number {
    let hash = this.#basis;
    for (let at = from; at < to; at++) hash = Math.imul(hash ^ bytes[at]!, 0x01000193);
    return (hash ^ (hash >>> 15)) & this.#mask;
  }
}
