/** A stretch of guest-physical memory and the file that backs it. */
export interface RamRegion {
  /** guest-physical address of the first byte */
  gpa: bigint;
  /** bytes */
  size: bigint;
  /** the open file that backs the region */
  fd: number;
  /** where the region begins in that file, bytes */
  offset: bigint;
  /** what the hypervisor calls it */
  name: string;
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
