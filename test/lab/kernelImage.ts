import type { VcpuState } from '../../src/target/target.js';

/**
 * A kernel image made by hand: page tables, banner, kallsyms in any layout, BTF. For layouts of releases that no guest
 * here has, and as the seed of hostile ones.
 */
export interface ImageSpec {
  layout: ImageLayout;
  /** see kallsyms_sym_address(); sorted by address */
  symbols: ImageSymbol[];
  slide?: bigint;
  btf?: Buffer;
}

/** The releases with this shape of kallsyms. */
export type ImageLayout = '4.5' | '4.14' | '5.10' | '6.1-debian' | '6.4' | '6.15' | '7.0';
export const IMAGE_LAYOUTS: readonly ImageLayout[] = ['4.5', '4.14', '5.10', '6.1-debian', '6.4', '6.15', '7.0'];

export interface ImageSymbol {
  name: string;
  type: string;
  /** bytes from _text, or an absolute value */
  at: number;
  absolute?: boolean;
}

export interface MadeImage {
  ram: Buffer;
  vcpu: VcpuState;
  /** runtime _text */
  base: bigint;
  /** where image offset 0 lies in RAM */
  gpa: number;
  /** image offsets of what was put there */
  places: { banner: number; tables: number; tablesEnd: number; btf: number };
}

export const IMAGE_BANNER =
  'Linux version 9.9.9-made (builder@host) (cc 1.0, ld 1.0) #1 SMP PREEMPT_DYNAMIC Thu Jan 1 00:00:00 UTC 1970';
/** Where a kernel without KASLR begins (arch/x86/include/asm/page_64_types.h). */
export const LINKED_TEXT = 0xffffffff81000000n;
const IMAGE_GPA = 4 << 20;
const IMAGE_SIZE = 8 << 20;
const TABLES = 0x200000;
const BANNER = 0x1ff000;
const BTF = 0x400000;
const LARGE_PAGE = 2n << 20n;

/** `_text`, `linux_banner` and enough others that the tables look like a kernel's. */
export function imageSymbols(more: ImageSymbol[] = [], count = 3000): ImageSymbol[] {
  const filler = Array.from({ length: count }, (_, i) => ({ name: `sys_filler_${i}`, type: 't', at: 64 + i * 32 }));
  const fixed = [
    { name: '_text', type: 'T', at: 0 },
    { name: 'a_name_that_is_longer_than_127_tokens_'.repeat(6), type: 't', at: 48 },
    { name: 'linux_banner', type: 'D', at: BANNER },
    { name: '__start_BTF', type: 'R', at: BTF },
  ];
  const order = (s: ImageSymbol) => (s.absolute ? s.at - 2 ** 40 : s.at);
  return [...fixed, ...filler, ...more].sort((a, b) => order(a) - order(b));
}

export function makeImage(spec: ImageSpec): MadeImage {
  const base = LINKED_TEXT + (spec.slide ?? 0n);
  const ram = Buffer.alloc(IMAGE_GPA + IMAGE_SIZE);
  const image = ram.subarray(IMAGE_GPA);
  image.write(`${IMAGE_BANNER}\n\0`, BANNER, 'latin1');
  const tables = kallsyms(spec, base);
  tables.copy(image, TABLES);
  spec.btf?.copy(image, BTF);
  return {
    ram,
    base,
    gpa: IMAGE_GPA,
    vcpu: vcpu(mapImage(ram, base)),
    places: { banner: BANNER, tables: TABLES, tablesEnd: TABLES + tables.length, btf: BTF },
  };
}

/** Four levels with 2 MiB pages; the root is the page at 0x1000. */
function mapImage(ram: Buffer, base: bigint): bigint {
  const [root, third, second] = [0x1000n, 0x2000n, 0x3000n];
  const entry = (table: bigint, index: bigint, value: bigint) =>
    ram.writeBigUInt64LE(value, Number(table + 8n * index));
  entry(root, 511n, third | 0x63n);
  entry(third, 510n, second | 0x63n);
  for (let at = 0n; at < BigInt(IMAGE_SIZE); at += LARGE_PAGE) {
    entry(second, ((base + at) >> 21n) & 511n, (BigInt(IMAGE_GPA) + at) | 0xe3n);
  }
  return root;
}

export function vcpu(cr3: bigint, changed: Partial<VcpuState> = {}): VcpuState {
  const zero = { fsBase: 0n, gsBase: 0n, kernelGsBase: 0n, cr2: 0n, cr8: 0n, rip: 0n };
  return {
    index: 0,
    gpr: new BigUint64Array(16),
    rflags: 2,
    cs: 0x10,
    ss: 0x18,
    ...zero,
    cr0: 0x80050033n,
    cr3,
    cr4: 0x6f0n,
    efer: 0xd01n,
    ...changed,
  };
}

/** scripts/kallsyms.c as it was in the named release. */
function kallsyms({ layout, symbols }: ImageSpec, base: bigint): Buffer {
  const align = layout === '7.0' ? 4 : 8;
  const { tokenTable, tokenIndex, compress } = tokens();
  const names: Buffer[] = [];
  const marks: number[] = [];
  let length = 0;
  symbols.forEach((symbol, i) => {
    if (i % 256 === 0) marks.push(length);
    const name = compress(symbol.type + symbol.name);
    const head = name.length < 0x80 ? [name.length] : [(name.length & 0x7f) | 0x80, name.length >> 7];
    names.push(Buffer.from(head), name);
    length += head.length + name.length;
  });

  const out = new TableWriter(align);
  const early = ['4.5', '4.14', '5.10', '6.1-debian'].includes(layout);
  if (early) addresses(out, layout, symbols, base);
  out.table(u32(symbols.length));
  out.table(Buffer.concat(names));
  out.table(layout === '4.5' || layout === '4.14' ? Buffer.concat(marks.map((m) => u64(BigInt(m)))) : u32(...marks));
  const sequences = Buffer.from(symbols.flatMap((_, i) => [i >> 16, (i >> 8) & 255, i & 255]));
  if (layout === '6.1-debian') out.table(sequences);
  out.table(tokenTable);
  out.table(tokenIndex);
  if (!early) addresses(out, layout, symbols, base);
  if (!early) out.table(sequences);
  return out.bytes();
}

function addresses(out: TableWriter, layout: ImageLayout, symbols: ImageSymbol[], base: bigint): void {
  const runtime = (s: ImageSymbol) => (s.absolute ? BigInt(s.at) : base + BigInt(s.at));
  switch (layout) {
    case '4.5':
      out.table(Buffer.concat(symbols.map((s) => u64(runtime(s)))));
      return;
    case '7.0': {
      const place = TABLES + out.next();
      out.table(u32(...symbols.map((s, i) => s.at - (place + 4 * i))));
      return;
    }
    case '6.15':
      out.table(u32(...symbols.map((s) => s.at)));
      break;
    default:
      out.table(u32(...symbols.map((s) => (s.absolute ? s.at : -1 - s.at))));
  }
  out.table(u64(base));
}

class TableWriter {
  readonly #parts: Buffer[] = [];
  #length = 0;

  constructor(private readonly align: number) {}

  /** where the next table will lie */
  next(): number {
    return Math.ceil(this.#length / this.align) * this.align;
  }

  table(bytes: Buffer): void {
    const padding = this.next() - this.#length;
    this.#parts.push(Buffer.alloc(padding), bytes);
    this.#length += padding + bytes.length;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

function tokens(): { tokenTable: Buffer; tokenIndex: Buffer; compress: (name: string) => Buffer } {
  const words = ['sys_', 'filler_', '_name', 'linux_', 'ban'];
  const table = Array.from(
    { length: 256 },
    (_, code) => words[code - 1] ?? (code < 32 ? 'xx' : String.fromCharCode(code)),
  );
  const index = Buffer.alloc(512);
  let offset = 0;
  table.forEach((token, code) => {
    index.writeUInt16LE(offset, 2 * code);
    offset += token.length + 1;
  });
  const compress = (name: string) =>
    Buffer.from(
      words.reduce((text, word, i) => text.replaceAll(word, String.fromCharCode(i + 1)), name),
      'latin1',
    );
  return {
    tokenTable: Buffer.from(table.map((token) => `${token}\0`).join(''), 'latin1'),
    tokenIndex: index,
    compress,
  };
}

function u32(...values: number[]): Buffer {
  return Buffer.from(Int32Array.from(values).buffer);
}

function u64(value: bigint): Buffer {
  return Buffer.from(BigUint64Array.of(value).buffer);
}
