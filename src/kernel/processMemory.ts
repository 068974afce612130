import { PenumbraError } from '../errors.js';
import type { BulkMemory, SearchOptions, WordsRead } from '../target/target.js';
import { type AbsentRange, absenceText, explainHole } from './absentPage.js';
import type { Kernel } from './kernel.js';
import { rootOf } from './pageTables.js';
import { Tasks } from './tasks.js';

/** A range to be read. */
export interface MemoryRequest {
  /** guest-virtual */
  address: bigint;
  /** bytes */
  length: number;
}

/** What one page is, by the page tables. */
export interface PageState {
  /** guest-physical address of the byte asked for; undefined where it cannot be read */
  gpa: bigint | undefined;
  /** 4 KiB, 2 MiB or 1 GiB; where nothing is mapped, what the last entry would cover */
  pageSize: bigint;
  /** why it cannot be read */
  absent: AbsentRange | undefined;
}

/**
 * The virtual memory of a process or of the kernel, read through the guest's own page tables: no code of the guest runs,
 * and what is not in RAM is not fetched but reported. Every method that reads may throw NO_TASK when the process ended.
 */
export interface AddressSpace {
  /** the process, undefined for the kernel */
  readonly pid: number | undefined;
  /** Guest-physical address of the page table root at this moment. */
  root(): bigint;
  /** @throws PenumbraError NOT_MAPPED with the first address that cannot be read, saying why */
  read(address: bigint, length: number): Buffer;
  tryRead(address: bigint, length: number): Buffer | undefined;
  /** All that can be read, with zeros in place of the rest, and what that is and why. */
  readPresent(address: bigint, length: number): { bytes: Buffer; absent: AbsentRange[] };
  /** Many ranges at once, as pieces of one Buffer; undefined for a range that is not there as a whole. */
  readMany(requests: readonly MemoryRequest[]): (Buffer | undefined)[];
  /**
   * A 64-bit word from each address. `missing` are the indices of those that cannot be read, whose value is 0; `hits` and
   * `misses` count translations that were known from a word before, and that were not.
   */
  readWords(addresses: BigUint64Array): WordsRead;
  page(address: bigint): PageState;
  /** Runs of [from, to) that are in RAM, contiguous in guest-physical memory, in order; at most 65,536. */
  extents(from: bigint, to: bigint): { va: bigint; gpa: bigint; size: bigint }[];
  /** Addresses at which `pattern` begins, in order. Without `from` and `to` all of the process's own half, or the kernel's. */
  search(pattern: Buffer, options?: Partial<SearchOptions>): Promise<bigint[]>;
}

type Open = (root: bigint) => BulkMemory;

const SEARCH_LIMIT = 10_000;
const ATTEMPTS = 4;

/**
 * The memory of a process.
 * @throws PenumbraError NO_TASK when there is none with this pid, or it has no memory of its own
 */
export function processMemory(kernel: Kernel, open: Open, pid: number): AddressSpace {
  const task = new Tasks(kernel).find(pid);
  if (task === undefined) throw new PenumbraError('NO_TASK', `the guest has no process ${pid}`);
  const memory = new ProcessMemory(kernel, open, pid, task.address);
  memory.root();
  return memory;
}

/** The kernel's memory, through its own page table. */
export function kernelMemory(kernel: Kernel, open: Open): AddressSpace {
  return new KernelMemory(kernel, open);
}

/** What both have in common: how a view's answers are told. */
abstract class ViewedMemory implements AddressSpace {
  abstract readonly pid: number | undefined;
  /** of [from, to) that is searched unless told otherwise */
  protected abstract readonly half: { from: bigint; to: bigint };

  constructor(
    protected readonly kernel: Kernel,
    protected readonly open: Open,
  ) {}

  abstract root(): bigint;
  /** Asks one view for one answer, which must be of the address space meant. */
  protected abstract ask<Answer>(question: (view: BulkMemory) => Answer): Answer;

  read(address: bigint, length: number): Buffer {
    return this.ask((view) => {
      const bytes = view.tryRead(address, length);
      if (bytes !== undefined) return bytes;
      const { bytes: present, holes } = view.readPresent(address, length);
      const [hole] = holes;
      // It came in between the two looks.
      if (hole === undefined) return present;
      const text = absenceText(explainHole(this.kernel, hole));
      const of = this.pid === undefined ? 'the kernel' : `process ${this.pid}`;
      throw new PenumbraError('NOT_MAPPED', `0x${hole.va.toString(16)} of ${of} cannot be read: ${text}`, {
        address: hole.va,
      });
    });
  }

  tryRead(address: bigint, length: number): Buffer | undefined {
    return this.ask((view) => view.tryRead(address, length));
  }

  readPresent(address: bigint, length: number): { bytes: Buffer; absent: AbsentRange[] } {
    return this.ask((view) => {
      const { bytes, holes } = view.readPresent(address, length);
      return { bytes, absent: joinRanges(holes.map((hole) => explainHole(this.kernel, hole))) };
    });
  }

  readMany(requests: readonly MemoryRequest[]): (Buffer | undefined)[] {
    return this.ask((view) => view.readMany(requests.map(({ address, length }) => ({ va: address, length }))));
  }

  readWords(addresses: BigUint64Array): WordsRead {
    return this.ask((view) => view.readWords(addresses));
  }

  page(address: bigint): PageState {
    return this.ask((view) => {
      const { result, gpa, pageSize, entry } = view.walk(address);
      const absent = gpa === undefined ? explainHole(this.kernel, { va: address, size: 1n, result, entry }) : undefined;
      return { gpa, pageSize, absent };
    });
  }

  extents(from: bigint, to: bigint): { va: bigint; gpa: bigint; size: bigint }[] {
    return this.ask((view) => view.extents(from, to));
  }

  async search(pattern: Buffer, options: Partial<SearchOptions> = {}): Promise<bigint[]> {
    const found = await this.ask((view) => view.search(pattern, { ...this.half, limit: SEARCH_LIMIT, ...options }));
    // The process may have ended meanwhile.
    this.root();
    return found;
  }
}

class KernelMemory extends ViewedMemory {
  readonly pid = undefined;
  protected readonly half = { from: 1n << 63n, to: 1n << 64n };

  root(): bigint {
    return this.kernel.root;
  }

  protected ask<Answer>(question: (view: BulkMemory) => Answer): Answer {
    return question(this.open(this.kernel.root));
  }
}

/**
 * A process may end, or become another program, while it is read: an answer counts only if the process had the same
 * memory before and after.
 */
class ProcessMemory extends ViewedMemory {
  protected readonly half: { from: bigint; to: bigint };
  readonly #task: bigint;
  readonly #pidAt: bigint;
  readonly #mmAt: bigint;

  constructor(
    kernel: Kernel,
    open: Open,
    readonly pid: number,
    task: bigint,
  ) {
    super(kernel, open);
    this.half = { from: 0n, to: kernel.levels === 5 ? 1n << 56n : 1n << 47n };
    this.#task = task;
    this.#pidAt = task + BigInt(kernel.requireOffset('task_struct.pid'));
    this.#mmAt = task + BigInt(kernel.requireOffset('task_struct.mm'));
  }

  root(): bigint {
    return rootOf(this.kernel, this.#mm());
  }

  protected ask<Answer>(question: (view: BulkMemory) => Answer): Answer {
    for (let attempt = 1; ; attempt += 1) {
      const mm = this.#mm();
      let failure: unknown;
      try {
        const answer = question(this.open(rootOf(this.kernel, mm)));
        if (this.#mm() === mm) return answer;
      } catch (error) {
        failure = error;
      }
      // An error of the same memory before and after is one.
      if (failure !== undefined && this.#mm() === mm) throw failure;
      if (attempt === ATTEMPTS) throw this.#ended();
    }
  }

  /** @throws PenumbraError NO_TASK */
  #mm(): bigint {
    if (this.kernel.virtual.tryRead(this.#pidAt, 4)?.readUInt32LE() !== this.pid) throw this.#ended();
    const address = this.kernel.virtual.read(this.#mmAt, 8).readBigUInt64LE();
    if (address === 0n) {
      throw new PenumbraError(
        'NO_TASK',
        `process ${this.pid} has no memory of its own (a kernel thread, or a zombie)`,
        {
          address: this.#task,
        },
      );
    }
    return address;
  }

  #ended(): PenumbraError {
    return new PenumbraError('NO_TASK', `process ${this.pid} ended, or became another program`, {
      address: this.#task,
    });
  }
}

/** Neighbours with the same reason become one range; the swap page is that of the first. */
function joinRanges(ranges: readonly AbsentRange[]): AbsentRange[] {
  const joined: AbsentRange[] = [];
  for (const range of ranges) {
    const last = joined.at(-1);
    if (last !== undefined && last.address + last.size === range.address && last.reason === range.reason) {
      last.size += range.size;
    } else {
      joined.push({ ...range });
    }
  }
  return joined;
}
