import { PenumbraError } from '../errors.js';
import type { VirtualMemory } from '../target/target.js';
import { kernelBanner, releaseOf } from './banner.js';
import { Btf } from './btf.js';
import { BtfTypes } from './btfTypes.js';
import type { DescriptionCache } from './cache.js';
import { type Answers, type Description, digestBtf, digestKallsyms } from './description.js';
import type { KernelImage } from './image.js';
import { readKallsyms, readSpan } from './kallsyms.js';
import { addressOf } from './kallsymsAddresses.js';
import type { Kernel, Member, Parameter, Step } from './kernel.js';
import type { OpenVirtual } from './locate.js';
import { isIsolated, kernelRoot } from './pageTables.js';
import { perCpuBase } from './perCpu.js';
import { SymbolTable } from './symbolTable.js';

/** Answers kept in a description; a tool that asks for everything must not fill the cache. */
const ANSWER_LIMIT = 20_000;

/** A description, with the decoded tables where they were decoded just now: the ones its digests were taken from. */
export interface Described {
  description: Description;
  symbols?: SymbolTable | undefined;
  btf?: Btf | undefined;
}

/**
 * A kernel that answers from its description where it can, and otherwise decodes its tables, once, when they are needed.
 * Tables decoded later are checked against the description's digests: the guest may have changed them meanwhile.
 */
export class GuestKernel implements Kernel {
  readonly banner: string;
  readonly release: string;
  readonly slide: bigint;
  readonly levels: 4 | 5;
  readonly pti: boolean;
  readonly root: bigint;
  readonly virtual: VirtualMemory;
  readonly openVirtual: (root: bigint) => VirtualMemory;
  readonly hasTypes: boolean;

  readonly #image: KernelImage;
  readonly #description: Description;
  readonly #cache: DescriptionCache;
  #symbols: SymbolTable | undefined;
  #btf: Btf | undefined;
  #hasNewAnswers = false;

  /** @throws PenumbraError NO_KERNEL when there is no banner */
  constructor(
    image: KernelImage,
    openVirtual: OpenVirtual,
    described: Described,
    cache: DescriptionCache,
    readonly steps: readonly Step[],
  ) {
    this.#image = image;
    this.#description = described.description;
    this.#cache = cache;
    this.#symbols = described.symbols;
    this.#btf = described.btf;
    this.banner = kernelBanner(image, this.symbol('linux_banner'));
    this.release = releaseOf(this.banner);
    this.slide = (this.symbol('_text') ?? image.base) - LINKED_TEXT;
    this.levels = image.view.levels;
    this.root = kernelRoot(this, image);
    this.pti = isIsolated(this, image, this.root);
    this.openVirtual = (root) => openVirtual(root, this.levels);
    this.virtual = this.openVirtual(this.root);
    this.hasTypes = this.#description.btf !== null;
  }

  symbol(name: string): bigint | undefined {
    const position = this.#answer('symbols', name, () => this.#symbolTable().position(name));
    return position === undefined ? undefined : addressOf(this.#image, position);
  }

  requireSymbol(...names: string[]): bigint {
    for (const name of names) {
      const address = this.symbol(name);
      if (address !== undefined) return address;
    }
    throw new PenumbraError('NO_SYMBOL', `the guest kernel ${this.release} has no symbol ${names.join(' or ')}`);
  }

  functionSize(name: string): number | undefined {
    return this.#answer('sizes', `${name}()`, () => this.#symbolTable().distanceToNext(name));
  }

  symbolAt(address: bigint): { name: string; offset: bigint } | undefined {
    return this.#symbolTable().covering(address);
  }

  symbols(): Iterable<{ name: string; type: string; address: bigint }> {
    return this.#symbolTable().entries();
  }

  offsetof(path: string): number | undefined {
    return this.#answer('offsets', path, () => this.#types().offsetof(path));
  }

  requireOffset(...paths: string[]): number {
    for (const path of paths) {
      const offset = this.offsetof(path);
      if (offset !== undefined) return offset;
    }
    throw new PenumbraError('NO_MEMBER', `the guest kernel ${this.release} has no member ${paths.join(' or ')}`);
  }

  sizeof(type: string): number | undefined {
    return this.#answer('sizes', type, () => this.#types().sizeof(type));
  }

  requireSize(type: string): number {
    const size = this.sizeof(type);
    if (size !== undefined) return size;
    throw new PenumbraError('NO_MEMBER', `the guest kernel ${this.release} has no type or member ${type}`);
  }

  member(path: string): Member | undefined {
    const found = this.#answer('members', path, () => {
      const member = this.#types().member(path);
      return member && [member.bitOffset, member.bitSize];
    });
    return found && { bitOffset: found[0], bitSize: found[1] };
  }

  enumerator(name: string): bigint | undefined {
    const value = this.#answer('enumerators', name, () => this.#types().enumerator(name)?.toString());
    return value === undefined ? undefined : BigInt(value);
  }

  parameters(func: string): readonly Parameter[] | undefined {
    return this.#answer('parameters', func, () => this.#types().parameters(func));
  }

  percpu(name: string, cpu: number): bigint {
    return BigInt.asUintN(64, this.requireSymbol(name) + perCpuBase(this, cpu));
  }

  remember(): boolean {
    if (!this.#hasNewAnswers) return false;
    this.#hasNewAnswers = false;
    return this.#cache.store(this.#description);
  }

  /** The answer given before, or a new one, which is kept. */
  #answer<Q extends keyof Answers>(
    kind: Q,
    question: string,
    ask: () => NonNullable<Answers[Q][string]> | undefined,
  ): NonNullable<Answers[Q][string]> | undefined {
    const known = this.#description.answers[kind] as Record<string, Answers[Q][string]>;
    if (Object.hasOwn(known, question)) return known[question] ?? undefined;
    const answer = ask();
    if (Object.keys(known).length < ANSWER_LIMIT && question !== '__proto__') {
      known[question] = answer ?? (null as Answers[Q][string]);
      this.#hasNewAnswers = true;
    }
    return answer;
  }

  #symbolTable(): SymbolTable {
    if (this.#symbols === undefined) {
      const { kallsyms, digests } = this.#description;
      const bytes = readKallsyms(this.#image, kallsyms);
      if (digestKallsyms(kallsyms, bytes) !== digests.kallsyms) throw changed('kallsyms');
      this.#symbols = SymbolTable.decode(this.#image, kallsyms, bytes);
    }
    return this.#symbols;
  }

  #types(): Btf {
    if (this.#btf === undefined) {
      const { btf, digests } = this.#description;
      if (btf === null) throw withoutTypes(this.release);
      const bytes = readSpan(this.#image, btf);
      if (digestBtf(btf, bytes) !== digests.btf) throw changed('BTF');
      this.#btf = new Btf(new BtfTypes(bytes));
    }
    return this.#btf;
  }
}

/** _text of a kernel that is not slid: __START_KERNEL_map + CONFIG_PHYSICAL_START, 0x1000000 unless configured otherwise. */
const LINKED_TEXT = 0xffffffff81000000n;

function changed(what: string): PenumbraError {
  return new PenumbraError('CORRUPT', `the guest has changed its ${what} since it was recognised`);
}

function withoutTypes(release: string): PenumbraError {
  return new PenumbraError(
    'NO_BTF',
    `the guest kernel ${release} carries no BTF (built without CONFIG_DEBUG_INFO_BTF), so its structures are unknown`,
  );
}
