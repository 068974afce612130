import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { PenumbraError } from './errors.js';
import type { HypervisorAddon, NativeWatchdog, VcpuHandles } from './hypervisor/native.js';
import type { RamRegion, VcpuState } from './target/target.js';

/** Where a stop found the vCPU that was taken. The order is that of native/shadow/context.h. */
export const stopClasses = ['user', 'idle', 'kernel'] as const;
export type StopClass = (typeof stopClasses)[number];

export interface ShadowStatistics {
  engine: string;
  calls: number;
  /** exits from guest code to the host, under KVM; 0 where they are not counted */
  exits: number;
  privatePages: number;
}

/** What entering a shadow cost, in nanoseconds. `refreshNs` runs while the registers are on their way. */
export interface EnterReport {
  stopNs: number;
  refreshNs: number;
  registersNs: number;
  loadNs: number;
  /** index into stopClasses */
  stopClass: number;
  /** the vCPU that was taken, or another, was in the middle of kernel code */
  inKernel: boolean;
  /** the guest was not found standing, and will run on */
  runsOn: boolean;
  vcpu: number;
  privatePages: number;
}

export interface NativeFailure {
  code: string;
  message: string;
  /** where the guest's code stood */
  address: bigint;
  /** text addresses found on its stack, innermost first; some may be stale */
  callers: BigUint64Array;
}

/** `outs` holds four numbers per buffer given back: step, argument record, offset in `bytes`, length. */
export interface NativeBatchResult {
  values: BigInt64Array;
  /** steps that returned only because they would have slept */
  blocked: Uint32Array;
  outs: Uint32Array;
  bytes: Buffer;
  failure?: NativeFailure;
}

/** A look at the guest that was one batch. */
export interface NativeAskReport {
  entered: EnterReport;
  result: NativeBatchResult;
  standstillNs: number;
}

/** A place in guest memory, see native/shadow/recipe.h. */
export interface NativeLocation {
  base: number;
  offset: bigint | number;
  indirectOffset?: bigint | number;
}

export interface NativeRecipe {
  levels: number;
  kernelRoot: bigint;
  perCpuBases: bigint[];
  currentTask: bigint;
  taskPid: number;
  taskMm: number;
  taskStack: number;
  taskThreadSp: number;
  taskState: number;
  taskStateWidth: number;
  taskOnCpu?: number;
  taskExitState: number;
  mmPgd: number;
  stackSize: number;
  borrowedTask: bigint;
  borrowedPid: number;
  syscallDispatch: bigint;
  registersFirst: boolean;
  syscallTable: bigint;
  syscallCount: number;
  idt: bigint;
  gdtPerCpu: bigint;
  tssPerCpu: bigint;
  textStart: bigint;
  textEnd: bigint;
  codeVersion?: NativeLocation;
  /** 32-bit sequence counters; an odd one means that the guest was stopped while writing what they guard */
  sequences: NativeLocation[];
  counter?: {
    clock: NativeLocation;
    last: NativeLocation;
    counterClocks: bigint[];
    pageClock?: bigint;
    page?: NativeLocation;
  };
  xcr0?: bigint;
  code: Buffer;
  lockFunctions: { start: bigint; size: number }[];
  harmlessReaders: { start: bigint; size: number }[];
  pageWait?: {
    wakeFunction: bigint;
    function: number;
    flags: number;
    page: number;
    bit: number;
    pageFlags: number;
    locked: bigint;
    upToDate: bigint;
  };
  signal?: { flags: number; flagsSet: bigint; pending: number; pendingSet: bigint; sleepStates: number };
  patches: { where: NativeLocation; width: number; keep: bigint; source: number; constant: bigint | number }[];
  samples: { from: NativeLocation; width: number; codeOffset: number }[];
  traps: { address: bigint; kind: number; value: bigint | number; name: string }[];
}

/** `addresses` are those of the matches, `next` is where to go on, `to` (0 for 2^64) when the search is over. */
export interface NativeHits {
  addresses: BigUint64Array;
  next: bigint;
  /** bytes that were there */
  searched: number;
}

/** What a redirected run is to be: native/binding/redirect.h. */
export interface NativeRedirectRequest {
  policy: {
    calls: Buffer;
    values: readonly bigint[];
    readAhead: readonly string[];
    localPaths: readonly { kinds: number; match: number; use: number; path: string }[];
    toolKinds: readonly { kind: number; pattern: string }[];
  };
  launcher: string;
  program: Buffer;
  arguments: Buffer[];
  environment: Buffer[];
  fds: number[];
  scratch: boolean;
  budgetMs: number;
  /** address of the borrowed task, and offsets to the number that its next file gets at least */
  task: bigint;
  taskFiles: number;
  nextFd: number;
}

export interface NativeRunReport {
  /** wait(2) */
  status: number;
  /** false: the run was cut short */
  ended: boolean;
  leftOver: number;
  notifications: number;
  guestCalls: number;
  guestEntries: number;
  foreseen: number;
  continued: number;
  guestMs: number;
  handlingMs: number;
  totalMs: number;
  refused: Record<string, number>;
}

/** In nanoseconds: for each word, for all pages, for each touch. */
export interface NativeReadCosts {
  wordNs: number;
  hits: number;
  misses: number;
  readNs: number;
  /** 0 where the pages are not mapped */
  copyNs: number;
  /** in all pages */
  bytes: number;
  touchNs: Float64Array;
}

/** One guest's RAM, gdbstub and shadow. Methods that return promises run in order on the guest's own thread. */
export interface NativeGuest {
  read(gpa: bigint, length: number): Buffer;
  find(needle: Buffer, from: bigint, to: bigint, limit: number): bigint[];
  translate(root: bigint, levels: number, address: bigint): bigint | undefined;
  /** `result` is an index into walkResults of src/target/target.ts. */
  walk(root: bigint, levels: number, address: bigint): { result: number; gpa: bigint; pageSize: bigint; entry: bigint };
  /** The bytes before the first that is not there. */
  readVirtual(root: bigint, levels: number, address: bigint, length: number): Buffer;
  /** Four words per hole: address, size, result, page table entry. */
  readPresent(root: bigint, levels: number, address: bigint, length: number): { bytes: Buffer; holes: BigUint64Array };
  /** Two words per request, address and length; `lengths` says how much of each was there. */
  readScattered(root: bigint, levels: number, requests: BigUint64Array): { bytes: Buffer; lengths: BigUint64Array };
  /** `hits` and `misses` count the lookups of a page's translation that was known, and was not. */
  loadWords(
    root: bigint,
    levels: number,
    addresses: BigUint64Array,
  ): { values: BigUint64Array; missing: Uint32Array; hits: number; misses: number };
  /** Three words per extent: address, gpa, size. Not complete when there are too many. */
  extents(root: bigint, levels: number, from: bigint, to: bigint): { words: BigUint64Array; complete: boolean };
  /** Ends after about `budget` bytes. */
  findVirtual(
    root: bigint,
    levels: number,
    needle: Buffer,
    from: bigint,
    to: bigint,
    limit: number,
    budget: bigint,
  ): Promise<NativeHits>;
  /**
   * What reading costs: words in a loop, scattered pages into one buffer (the best of several rounds, against memcpy of
   * the same pages where they are mapped), and the first touch of guest-physical pages in a private copy. Blocks.
   */
  measureReads(
    root: bigint,
    levels: number,
    words: BigUint64Array,
    pages: BigUint64Array,
    scratchGpa: bigint,
    touched: BigUint64Array,
  ): NativeReadCosts;
  /** The guest's RAM is another now. Resolves when the shadow, which was made of the old one, is gone. */
  setRam(regions: readonly RamRegion[]): Promise<void>;

  /**
   * Takes over `fd`, whose other end QEMU's gdbserver is about to get. Leaves the guest as `foundRunning` says and gives
   * the vCPUs as they were meanwhile. The watchdog is kept informed of every stop from then on. `pid` is QEMU's.
   */
  connectStub(
    fd: number,
    watchdog: NativeWatchdog,
    foundRunning: boolean,
    timeoutMs: number,
    vcpus: VcpuHandles | undefined,
    pid: number,
  ): Promise<VcpuState[]>;
  detachStub(timeoutMs: number): Promise<void>;
  /** Whether short stops hold the vCPUs' threads; if not, why. */
  stopWay(): Promise<{ holds: boolean; refusal: string }>;
  /** Stops the guest by the stub, reads the registers in both ways (`pages` is empty where KVM left none) and resumes. */
  compareRegisters(timeoutMs: number): Promise<{ stub: VcpuState[]; pages: VcpuState[] }>;
  /** Stops, reads the registers and resumes, and nothing else: what the cost of a shadow is compared with. */
  measureStop(timeoutMs: number, short: boolean): Promise<{ stopNs: number; registersNs: number; resumeNs: number }>;

  /** @param engine `device` is KVM's, of the engine kvm */
  createShadow(recipe: NativeRecipe, scratchGpa: bigint, engine: { name: string; device: string }): Promise<void>;
  borrow(task: bigint, pid: number): Promise<void>;
  setOptions(options: { instructionLimit: number; timeLimitNs: number; keepPages: number }): Promise<void>;
  /**
   * Stops the guest and loads the shadow. The guest stands still afterwards, on failure too, until `leave`.
   * @param short it is going to be let go in milliseconds; its own clocks may then run on meanwhile
   */
  enter(timeoutMs: number, short: boolean): Promise<EnterReport>;
  run(batch: Buffer): Promise<NativeBatchResult>;
  /** Enters for a short time, runs the batch and leaves, without anybody in between; when it fails `leave` has to follow. */
  ask(timeoutMs: number, batch: Buffer): Promise<NativeAskReport>;
  /** Runs a tool against the shadow; resolves when its last process has ended. */
  redirect(request: NativeRedirectRequest): Promise<NativeRunReport>;
  /** Ends all processes of that tool. */
  interruptRedirect(): void;
  /** Through the borrowed task's page tables unless another root is given; the bytes before the first that is not there. */
  readShadow(address: bigint, length: number, root?: bigint): Promise<Buffer>;
  /** Writes into the shadow only; resolves with the number of bytes before the first that is not there. */
  writeShadow(address: bigint, bytes: Buffer, root?: bigint): Promise<number>;
  /** Resumes; resolves with the nanoseconds for which the guest stood still. */
  leave(): Promise<number>;
  /** Loads the shadow over the running guest, with the registers of the last stop; to be followed by `endRehearsal`. */
  beginRehearsal(): Promise<void>;
  endRehearsal(): Promise<void>;
  statistics(): Promise<ShadowStatistics>;
  /** The guest is not the one any more that was attached to: from now on stops fail with GUEST_GONE and this message. */
  setGone(message: string): Promise<void>;
  /** Gives back its thread, the engine and all mappings, after the jobs under way. Whatever is asked then fails. */
  close(): Promise<void>;
}

/** What native/engine/calibrate.h measures: instructions per second in a virtual machine and on the host. */
export interface NativeCalibration {
  guestRate: number;
  hostRate: number;
  exitNs: number;
}

export interface Addon extends HypervisorAddon {
  setErrorClass(errorClass: typeof PenumbraError): void;
  /** Six words per CPUID leaf: function, index, eax, ebx, ecx, edx. */
  kvmCpuid(device: string): Uint32Array;
  calibrateKvm(device: string): Promise<NativeCalibration>;
  Guest: new (regions: readonly RamRegion[]) => NativeGuest;
}

function load(): Addon {
  const path = fileURLToPath(new URL('../../build/Release/penumbra.node', import.meta.url));
  const addon = createRequire(import.meta.url)(path) as Addon;
  addon.setErrorClass(PenumbraError);
  return addon;
}

export const addon: Addon = load();
