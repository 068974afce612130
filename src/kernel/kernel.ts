import type { VirtualMemory } from '../target/target.js';

/** One step of recognising a kernel and what it cost. */
export interface Step {
  name: string;
  milliseconds: number;
}

/** How a parameter of a guest kernel function is passed, as BTF says. */
export interface Parameter {
  name: string;
  kind: 'pointer' | 'integer' | 'float' | 'aggregate';
  /** bytes */
  size: number;
}

/** Where a (bit-field) member lies. */
export interface Member {
  /** bits from the start of the outermost type */
  bitOffset: number;
  /** bits; for an ordinary member eight times its size */
  bitSize: number;
}

/**
 * What the guest kernel says of itself, read from its RAM.
 *
 * Nothing here depends on the kernel's version: ask for the symbol or member, newest form first.
 */
export interface Kernel {
  /** `Linux version ...`, without the line's end */
  readonly banner: string;
  /** `6.1.0-18-amd64`; empty when the banner has an unknown shape */
  readonly release: string;
  /** KASLR: runtime `_text` - 0xffffffff81000000 */
  readonly slide: bigint;
  readonly levels: 4 | 5;
  /** kernel page table isolation is in force */
  readonly pti: boolean;
  /** guest-physical address of the kernel's own page table root (init_top_pgt) */
  readonly root: bigint;
  /** memory through `root` */
  readonly virtual: VirtualMemory;
  /** memory through another page table root, a process's for instance */
  openVirtual(root: bigint): VirtualMemory;
  /** whether the kernel carries BTF; without it every question about types fails with NO_BTF */
  readonly hasTypes: boolean;
  /** what recognising cost, in order */
  readonly steps: readonly Step[];

  /**
   * Runtime address of a kernel symbol; of several with the same name the lowest.
   * A per-CPU symbol is an offset to be added to `__per_cpu_offset[n]`, see `percpu`.
   */
  symbol(name: string): bigint | undefined;
  /** The first of `names` that exists. @throws PenumbraError NO_SYMBOL naming all of them */
  requireSymbol(...names: string[]): bigint;
  /** Bytes from a function to the next symbol; undefined when there is no such symbol. */
  functionSize(name: string): number | undefined;
  /** The symbol that covers `address` (of several at one address the first), undefined outside the kernel image. */
  symbolAt(address: bigint): { name: string; offset: bigint } | undefined;
  /** All symbols in order of address. Decodes the whole table. */
  symbols(): Iterable<{ name: string; type: string; address: bigint }>;

  /**
   * Offset in bytes of a member: `task_struct.thread.sp`, `module.mem[1].base`. Anonymous members are looked through.
   * undefined when there is no such type or member, or it is a bit-field that begins within a byte (see `member`).
   * @throws PenumbraError NO_BTF
   */
  offsetof(path: string): number | undefined;
  /** The first of `paths` that exists. @throws PenumbraError NO_MEMBER naming all of them, NO_BTF */
  requireOffset(...paths: string[]): number;
  /** Bytes of a type (`task_struct`) or a member (`task_struct.comm`). @throws PenumbraError NO_BTF */
  sizeof(type: string): number | undefined;
  /** @throws PenumbraError NO_MEMBER, NO_BTF */
  requireSize(type: string): number;
  /** A member in bits, for bit-fields. @throws PenumbraError NO_BTF */
  member(path: string): Member | undefined;
  /** Value of an enumerator, of whichever enum has it. @throws PenumbraError NO_BTF */
  enumerator(name: string): bigint | undefined;
  /** Parameters of a kernel function. @throws PenumbraError NO_BTF */
  parameters(func: string): readonly Parameter[] | undefined;

  /** Address of the per-CPU variable `name` on a CPU. @throws PenumbraError NO_SYMBOL, BAD_ARGUMENT for a CPU that cannot exist */
  percpu(name: string, cpu: number): bigint;
  /** Keep the answers given so far for the next session with this kernel. Never fails; false when nothing was written. */
  remember(): boolean;
}
