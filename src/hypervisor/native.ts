/** The part of the addon that this room uses: native/binding/hypervisor.cc and native/binding/process.cc. */
export interface HypervisorAddon {
  /** Does not wait for the other side to accept. `pid` is that of the process that called listen(2), 0 if out of sight. */
  connectUnix(path: Buffer): { fd: number; pid: number; uid: number; gid: number };
  sendWithFds(fd: number, bytes: Buffer, fds: readonly number[]): void;
  socketPair(): [number, number];
  /** `holder` is what the process that has the lock wrote as `owner`. */
  tryLockFile(path: string, owner: string): { fd: number } | { holder: string };
  /** Removes the file and gives the lock back. */
  unlockFile(path: string, fd: number): void;
  closeFd(fd: number): void;
  /** Duplicates of another process's descriptors. @throws PenumbraError PERMISSION, GUEST_GONE, UNSUPPORTED */
  duplicateFds(pid: number, numbers: readonly number[]): number[];
  Watchdog: new (options: WatchdogOptions) => NativeWatchdog;
}

/** vCPUs of QEMU's process `pid`: duplicates of their descriptors, and the threads that run them. */
export interface VcpuHandles {
  pid: number;
  fds: readonly number[];
  threads: readonly number[];
}

/** Bytes for the QMP socket (at most 1600) and the id in the last reply to them (at most 59 characters). */
export interface WatchdogOrder {
  bytes: Buffer;
  lastId: string;
}

export interface WatchdogOptions {
  /** path of penumbra-watchdog */
  executable: string;
  stubFd: number;
  qmpFd: number;
  /** vCPUs of which the registers are read in memory shared with KVM */
  vcpuFds: readonly number[];
  foundRunning: boolean;
  undo: WatchdogOrder;
  resume: WatchdogOrder;
}

/** The process that restores the guest when this one is killed. */
export interface NativeWatchdog {
  readonly pid: number;
  setPhase(phase: WatchdogPhase): void;
  /** Ends it without its doing anything. May be called twice. */
  release(): void;
}

/** The order is that of native/process/watchdog_page.h. */
export const watchdogPhases = { unarmed: 0, running: 1, standing: 2, detaching: 3, released: 4 } as const;
export type WatchdogPhase = (typeof watchdogPhases)[keyof typeof watchdogPhases];
