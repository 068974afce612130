/** A stretch of guest-physical memory and where its bytes are had from. */
export interface RamRegion {
  /** guest-physical address of the first byte */
  gpa: bigint;
  /** bytes */
  size: bigint;
  /** the open file that backs the region, or /proc/PID/mem of the hypervisor */
  fd: number;
  /** where the region begins in that file, bytes; of the hypervisor's memory the address */
  offset: bigint;
  /** what the hypervisor calls it */
  name: string;
  /** pid of the hypervisor, whose memory `fd` is; undefined for a file that can be mapped */
  process?: number | undefined;
  /** a shadow copies it page by page: its file cannot be mapped copy-on-write at a bearable cost */
  copied?: boolean;
  /** pages that nobody wrote to are zeros, so a search passes over them */
  sparse?: boolean;
}

/** Guest-physical memory. Reads are synchronous and see a live guest as it is at that moment, without stopping it. */
export interface PhysicalMemory {
  readonly regions: readonly { gpa: bigint; size: bigint }[];
  /** @throws PenumbraError BAD_ADDRESS outside RAM */
  read(gpa: bigint, length: number): Buffer;
  /** Guest-physical address of each occurrence of `needle` that begins within [from,to), at most `limit` of them. */
  find(needle: Buffer, from: bigint, to: bigint, limit: number): bigint[];
}

/** Memory as one page table root shows it. */
export interface VirtualMemory {
  /** guest-physical address of the top-level page table */
  readonly root: bigint;
  readonly levels: 4 | 5;
  /** Guest-physical address, undefined where no page is present. */
  translate(va: bigint): bigint | undefined;
  /** @throws PenumbraError NOT_MAPPED with the first address that has no page */
  read(va: bigint, length: number): Buffer;
  tryRead(va: bigint, length: number): Buffer | undefined;
  /** Mapped extents of [from,to) as runs contiguous in guest-physical memory, in order of va; bounded. */
  extents(from: bigint, to: bigint): { va: bigint; gpa: bigint; size: bigint }[];
}

/** How a page table walk ended. The order is that of native/memory/page_walk.h. */
export const walkResults = ['mapped', 'notPresent', 'notCanonical', 'reserved', 'outsideRam'] as const;
export type WalkResult = (typeof walkResults)[number];

/** What the page tables say of one address. */
export interface PageWalk {
  result: WalkResult;
  /** guest-physical address, where mapped */
  gpa: bigint | undefined;
  /** 4 KiB, 2 MiB or 1 GiB; where nothing is mapped, what the last entry would cover */
  pageSize: bigint;
  /** the last entry read */
  entry: bigint;
}

/** A part of a range that cannot be read. */
export interface Hole {
  va: bigint;
  size: bigint;
  result: WalkResult;
  /** the page table entry that says so */
  entry: bigint;
}

export interface SearchOptions {
  from: bigint;
  /** behind the last address at which a match may begin */
  to: bigint;
  /** matches at most */
  limit: number;
  signal?: AbortSignal | undefined;
}

/** Little-endian words, each from an address of its own. */
export interface WordsRead {
  values: BigUint64Array;
  /** indices of those that are not there, whose value is 0 */
  missing: Uint32Array;
  /** translations of pages that were known already, and that were not */
  hits: number;
  misses: number;
}

/** Virtual memory that is also read in bulk, at native speed. */
export interface BulkMemory extends VirtualMemory {
  walk(va: bigint): PageWalk;
  /** All that can be read, zeros for the rest. */
  readPresent(va: bigint, length: number): { bytes: Buffer; holes: Hole[] };
  /** Many pieces in one call, of one Buffer; undefined for a piece that is not there as a whole. */
  readMany(requests: readonly { va: bigint; length: number }[]): (Buffer | undefined)[];
  readWords(addresses: BigUint64Array): WordsRead;
  /** Where `needle` begins, in order. Runs beside JavaScript; what is not present is passed over. */
  search(needle: Buffer, options: SearchOptions): Promise<bigint[]>;
}

/** What a stopped vCPU holds. */
export interface VcpuState {
  index: number;
  /** rax rbx rcx rdx rsi rdi rbp rsp r8..r15, the order of the gdb remote protocol */
  gpr: BigUint64Array;
  rip: bigint;
  rflags: number;
  cs: number;
  ss: number;
  fsBase: bigint;
  gsBase: bigint;
  kernelGsBase: bigint;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
}
