import { BtfKind } from '../../src/kernel/btfTypes.js';

/** A BTF blob written type by type; types are numbered from 1 in the order in which they are added. */
export class BtfBlob {
  readonly #types: Buffer[] = [];
  #strings = Buffer.from([0]);

  int(name: string, bytes: number): number {
    return this.#add(name, BtfKind.Int, 0, bytes, [bytes * 8]);
  }

  pointer(to: number): number {
    return this.#add('', BtfKind.Ptr, 0, to, []);
  }

  typedef(name: string, of: number): number {
    return this.#add(name, BtfKind.Typedef, 0, of, []);
  }

  array(of: number, count: number): number {
    return this.#add('', BtfKind.Array, 0, 0, [of, of, count]);
  }

  struct(name: string, bytes: number, members: [name: string, type: number, bit: number, width?: number][]): number {
    return this.#aggregate(BtfKind.Struct, name, bytes, members);
  }

  union(name: string, bytes: number, members: [name: string, type: number, bit: number][]): number {
    return this.#aggregate(BtfKind.Union, name, bytes, members);
  }

  enumeration(name: string, values: [name: string, value: number][]): number {
    const words = values.flatMap(([n, value]) => [this.#string(n), value]);
    return this.#add(name, BtfKind.Enum, values.length, 4, words);
  }

  enumeration64(name: string, values: [name: string, value: bigint][]): number {
    const words = values.flatMap(([n, v]) => [this.#string(n), Number(v & 0xffffffffn), Number(v >> 32n)]);
    return this.#add(name, BtfKind.Enum64, values.length, 8, words);
  }

  func(name: string, parameters: [name: string, type: number][]): number {
    const words = parameters.flatMap(([n, type]) => [this.#string(n), type]);
    const proto = this.#add('', BtfKind.FuncProto, parameters.length, 0, words);
    return this.#add(name, BtfKind.Func, 0, proto, []);
  }

  /** @param padding bytes of strings that nothing refers to: a kernel's BTF is large */
  bytes(padding = 0): Buffer {
    const types = Buffer.concat(this.#types);
    const strings = Buffer.concat([this.#strings, Buffer.alloc(padding)]);
    const header = Buffer.alloc(24);
    header.writeUInt16LE(0xeb9f, 0);
    header.writeUInt8(1, 2);
    const words = Uint32Array.of(24, 0, types.length, types.length, strings.length);
    Buffer.from(words.buffer).copy(header, 4);
    return Buffer.concat([header, types, strings]);
  }

  #aggregate(kind: BtfKind, name: string, bytes: number, members: [string, number, number, number?][]): number {
    const hasWidths = members.some((m) => m[3] !== undefined);
    const words = members.flatMap(([n, type, bit, width]) => [
      this.#string(n),
      type,
      hasWidths ? ((width ?? 0) << 24) | bit : bit,
    ]);
    return this.#add(name, kind, members.length, bytes, words, hasWidths);
  }

  #add(name: string, kind: BtfKind, count: number, sizeOrType: number, words: number[], flag = false): number {
    const info = (kind << 24) | count | (flag ? 1 << 31 : 0);
    this.#types.push(Buffer.from(Int32Array.from([this.#string(name), info, sizeOrType, ...words]).buffer));
    return this.#types.length;
  }

  #string(text: string): number {
    if (text === '') return 0;
    const known = this.#strings.indexOf(`\0${text}\0`);
    if (known >= 0) return known + 1;
    const at = this.#strings.length;
    this.#strings = Buffer.concat([this.#strings, Buffer.from(`${text}\0`)]);
    return at;
  }
}
