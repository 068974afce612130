import { PenumbraError } from '../errors.js';
import { NameIndex } from './nameIndex.js';

/** Documentation/bpf/btf.rst and include/uapi/linux/btf.h. */
export const BTF_MAGIC = 0xeb9f;
const HEADER_SIZE = 24;
/** The kernel accepts none that are longer (KSYM_NAME_LEN, __btf_name_valid in kernel/bpf/btf.c); forged ones are cut. */
const LONGEST_NAME = 512;

export enum BtfKind {
  Void = 0,
  Int = 1,
  Ptr = 2,
  Array = 3,
  Struct = 4,
  Union = 5,
  Enum = 6,
  Fwd = 7,
  Typedef = 8,
  Volatile = 9,
  Const = 10,
  Restrict = 11,
  Func = 12,
  FuncProto = 13,
  Var = 14,
  Datasec = 15,
  Float = 16,
  DeclTag = 17,
  TypeTag = 18,
  Enum64 = 19,
}

/** Bytes behind the common part of a type: [fixed, per element]. */
const TRAILERS: readonly (readonly [number, number])[] = [
  [0, 0],
  [4, 0], // INT
  [0, 0],
  [12, 0], // ARRAY
  [0, 12], // STRUCT
  [0, 12], // UNION
  [0, 8], // ENUM
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 0],
  [0, 8], // FUNC_PROTO
  [4, 0], // VAR
  [0, 12], // DATASEC
  [0, 0],
  [4, 0], // DECL_TAG
  [0, 0],
  [0, 12], // ENUM64
];

const COMMON = 12;
/** Kinds that a question may name. */
const NAMED = maskOf(
  BtfKind.Int,
  BtfKind.Struct,
  BtfKind.Union,
  BtfKind.Enum,
  BtfKind.Enum64,
  BtfKind.Typedef,
  BtfKind.Func,
);
const MODIFIERS = maskOf(BtfKind.Typedef, BtfKind.Volatile, BtfKind.Const, BtfKind.Restrict, BtfKind.TypeTag);

function maskOf(...kinds: BtfKind[]): number {
  return kinds.reduce((mask, kind) => mask | (1 << kind), 0);
}

/** A name in the string section, compared and read where it lies. */
export interface BtfName {
  is(text: string): boolean;
  isEmpty(): boolean;
  text(): string;
}

/**
 * The types of a BTF blob, by number. Only where each begins is kept; everything else is read where it lies.
 * Numbers of types, lengths and string offsets come from the guest: every access is checked.
 */
export class BtfTypes {
  /** where type i begins; type 0 is void */
  readonly #starts: Uint32Array;
  readonly #words: Uint32Array;
  readonly #count: number;
  readonly #strings: Buffer;
  #names?: NameIndex;
  #named?: Uint32Array;

  /** @throws PenumbraError CORRUPT */
  constructor(bytes: Buffer) {
    const { types, strings } = sections(bytes);
    if (types.from % 4 !== 0) throw corrupt('the types are not aligned');
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : Buffer.from(Uint8Array.from(bytes).buffer);
    const words = new Uint32Array(aligned.buffer, aligned.byteOffset, aligned.length >> 2);
    this.#words = words;
    this.#strings = strings;
    const starts = new Uint32Array(1 + Math.floor((types.to - types.from) / COMMON));
    let count = 1;
    for (let at = types.from; at < types.to; count++) {
      if (at + COMMON > types.to) throw corrupt(`type ${count} runs behind the types`);
      starts[count] = at;
      const info = words[(at >> 2) + 1]!;
      const trailer = TRAILERS[kindOf(info)];
      // A kind this code does not know has an unknown length, so nothing behind it can be read.
      if (trailer === undefined) {
        throw new PenumbraError('UNSUPPORTED', `BTF: type ${count} is of the unknown kind ${kindOf(info)}`);
      }
      at += COMMON + trailer[0] + trailer[1] * (info & 0xffff);
      if (at > types.to) throw corrupt(`type ${count} runs behind the types`);
    }
    this.#starts = starts.subarray(0, count);
    this.#count = count;
  }

  kind(type: number): BtfKind {
    return type === 0 ? BtfKind.Void : kindOf(this.#info(type));
  }

  isModifier(type: number): boolean {
    return ((MODIFIERS >> this.kind(type)) & 1) !== 0;
  }

  /** Bytes of an int, struct, union, enum or float. */
  size(type: number): number {
    return this.#word(this.#start(type) + 8);
  }

  /** The type that a pointer, typedef, qualifier or function refers to. */
  target(type: number): number {
    return this.#word(this.#start(type) + 8);
  }

  array(type: number): { element: number; count: number } {
    const at = this.#start(type) + COMMON;
    return { element: this.#word(at), count: this.#word(at + 8) };
  }

  /** Members of a struct or union: offset and, for a bit-field, width in bits. */
  *members(type: number): Generator<{ name: BtfName; type: number; bits: number; width: number }> {
    const info = this.#info(type);
    const hasWidths = info >>> 31 === 1;
    let at = this.#start(type) + COMMON;
    for (let i = info & 0xffff; i > 0; i--, at += 12) {
      const offset = this.#word(at + 8);
      yield {
        name: this.#name(this.#word(at)),
        type: this.#word(at + 4),
        bits: hasWidths ? offset & 0xffffff : offset,
        width: hasWidths ? offset >>> 24 : 0,
      };
    }
  }

  /** Enumerators of an enum, or an enum64 (6.0). */
  *enumerators(type: number): Generator<{ name: BtfName; value: bigint }> {
    const info = this.#info(type);
    const isSigned = info >>> 31 === 1;
    const wide = kindOf(info) === BtfKind.Enum64;
    let at = this.#start(type) + COMMON;
    for (let i = info & 0xffff; i > 0; i--, at += wide ? 12 : 8) {
      const raw = BigInt(this.#word(at + 4)) | (wide ? BigInt(this.#word(at + 8)) << 32n : 0n);
      // enums had no sign flag before 6.0; the kernel's own are then plain ints
      const value = wide && !isSigned ? raw : BigInt.asIntN(wide ? 64 : 32, raw);
      yield { name: this.#name(this.#word(at)), value };
    }
  }

  /** Parameters of a function prototype. A last one of type 0 stands for `...` and is left out. */
  parameters(proto: number): { name: BtfName; type: number }[] {
    const found: { name: BtfName; type: number }[] = [];
    let at = this.#start(proto) + COMMON;
    for (let i = this.#info(proto) & 0xffff; i > 0; i--, at += 8) {
      const type = this.#word(at + 4);
      if (type !== 0) found.push({ name: this.#name(this.#word(at)), type });
    }
    return found;
  }

  /** Types with this name, in order. */
  *named(name: string): Generator<number> {
    const { names, ids } = this.#nameIndex();
    for (const i of names.all(name)) yield ids[i]!;
  }

  *ofKinds(...kinds: BtfKind[]): Generator<number> {
    const mask = maskOf(...kinds);
    for (let type = 1; type < this.#count; type++) {
      if ((mask >> this.kind(type)) & 1) yield type;
    }
  }

  #nameIndex(): { names: NameIndex; ids: Uint32Array } {
    if (this.#names === undefined || this.#named === undefined) {
      const ids = Uint32Array.from(this.ofKinds(...kindsIn(NAMED)));
      const starts = ids.map((type) => Math.min(this.#word(this.#starts[type]!), this.#strings.length));
      const ends = starts.map((start) => this.#nameEnd(start));
      this.#named = ids;
      this.#names = new NameIndex({ bytes: this.#strings, starts, ends });
    }
    return { names: this.#names, ids: this.#named };
  }

  #name(offset: number): BtfName {
    const strings = this.#strings;
    return {
      isEmpty: () => offset >= strings.length || strings[offset] === 0,
      is: (text) =>
        strings[offset + text.length] === 0 && strings.toString('latin1', offset, offset + text.length) === text,
      text: () => strings.toString('latin1', offset, this.#nameEnd(offset)),
    };
  }

  #nameEnd(offset: number): number {
    const strings = this.#strings;
    const limit = Math.min(strings.length, offset + LONGEST_NAME);
    let end = offset;
    while (end < limit && strings[end] !== 0) end++;
    return end;
  }

  /** The word at a place that the constructor has found to lie within the types. */
  #word(at: number): number {
    return this.#words[at >> 2]!;
  }

  #info(type: number): number {
    return this.#word(this.#start(type) + 4);
  }

  #start(type: number): number {
    if (type === 0 || type >= this.#count) throw corrupt(`type ${type} of ${this.#count} does not exist`);
    return this.#starts[type]!;
  }
}

function kindOf(info: number): BtfKind {
  return (info >>> 24) & 31;
}

function kindsIn(mask: number): BtfKind[] {
  return TRAILERS.map((_, kind) => kind as BtfKind).filter((kind) => (mask >> kind) & 1);
}

/** Whether a BTF header stands at the start of `bytes`, and how long the blob behind it is. */
export function btfLength(bytes: Buffer): number | undefined {
  if (bytes.length < HEADER_SIZE || bytes.readUInt16LE(0) !== BTF_MAGIC || bytes[2] !== 1) return undefined;
  const header = bytes.readUInt32LE(4);
  const types = bytes.readUInt32LE(8) + bytes.readUInt32LE(12);
  const strings = bytes.readUInt32LE(16) + bytes.readUInt32LE(20);
  return header < HEADER_SIZE ? undefined : header + Math.max(types, strings);
}

function sections(bytes: Buffer): { types: { from: number; to: number }; strings: Buffer } {
  const length = btfLength(bytes);
  if (length === undefined) throw corrupt('the header is none');
  if (length > bytes.length) throw corrupt(`the header speaks of ${length} bytes, there are ${bytes.length}`);
  const header = bytes.readUInt32LE(4);
  const types = header + bytes.readUInt32LE(8);
  const strings = header + bytes.readUInt32LE(16);
  return {
    types: { from: types, to: types + bytes.readUInt32LE(12) },
    strings: bytes.subarray(strings, strings + bytes.readUInt32LE(20)),
  };
}

function corrupt(what: string): PenumbraError {
  return new PenumbraError('CORRUPT', `BTF: ${what}`);
}
