import type { EngineName } from '../../../src/index.js';
import type { LabSpec } from '../../../src/lab/index.js';
import type { Attempt } from '../attempts.js';
import type { Rounds } from '../rounds.js';

/** What look.ts is asked to do in L1. */
export interface LookRequest {
  spec: Partial<LabSpec>;
  engines: readonly EngineName[];
  /** also: look into the paused guest, be killed while it stands still, run the command line program */
  thorough: boolean;
}

/** What look.ts reports of one guest, in this order. */
export type LookEvent = GuestUp | Look | Refusal | PausedLook | Rescue | CommandRun | Failure;

/** A line of look.ts: `request` counts from 0, `at` is in ms since it began. */
export interface LookLine {
  request: number;
  at: number;
  event: LookEvent;
}

export interface GuestUp {
  kind: 'guest';
  release: string;
  bootMs: number;
  clocksource: string;
}

/** What the guest prints of itself; bytes as Latin-1. */
export interface Truth {
  /** of `ps -o pid,ppid,user,args` */
  ps: string;
  passwd: string;
  uname: string;
  /** name, size, mode in hexadecimal, uid, gid */
  tree: string;
  uptime: string;
  /** names of files in some folders */
  files: string;
}

export interface Answers {
  processes: { pid: number; ppid: number; uid: number; state: string; comm: string; args: string[] }[];
  passwd: string;
  uname: string[];
  tree: string;
  uptime: string;
  /** by L1's own find, redirected: its output, or what went wrong */
  files: string;
  /** the engine that ran the calls */
  engine: string;
  pti: boolean;
  vcpus: number;
  slide: string;
}

/** One engine's answers, between two looks at the truth. */
export interface Look {
  kind: 'look';
  engine: EngineName;
  before: Truth;
  answers: Answers;
  after: Truth;
  milliseconds: { attach: number; firstPs: number; ps: number; standstill: number; detach: number };
  retries: number;
}

/** The engine could not be had, or failed. */
export interface Refusal {
  kind: 'refusal';
  engine: EngineName;
  code: string;
  message: string;
}

/** The guest could not be looked at any further. */
export interface Failure {
  kind: 'failure';
  message: string;
}

export interface PausedLook {
  kind: 'paused';
  processes: number;
  /** bytes of RAM that differ afterwards */
  changed: number;
  runState: string;
}

/** A penumbra was killed while the guest stood still for it. */
export interface Rescue {
  kind: 'rescue';
  stateHeld: string;
  stateAfter: string;
  milliseconds: number;
}

/** `penumbra ps` as a program of its own. */
export interface CommandRun {
  kind: 'command';
  status: number;
  lines: number;
  errors: string;
  milliseconds: number;
}

/** What stops.ts is asked to do in L1 with a busy guest. */
export interface StopsRequest {
  vcpus: 1 | 2;
  /** stops in which the registers are read in both ways */
  comparisons: number;
  /** penumbras killed while they stop the guest */
  kills: number;
  /** stops with a shadow */
  rounds: number;
  /** also: the guest's own speed before and after the rounds */
  benchmark: boolean;
}

export interface StopsReport {
  vcpus: number;
  stopWay: string;
  stopWayReason: string;
  registers: { compared: number; differences: string[] };
  /** ms of a stop with registers, by held threads and by the gdbstub: the least of many */
  costs: { short: number; byStub: number };
  kills: number;
  /** what the kills did to QEMU or the guest */
  wounds: string[];
  kept: Rounds;
  /** what the guest's kernel said during the rounds */
  news: string;
  /** ms of processor time for the same work */
  work: { before: number; after: number };
  /** when QEMU was killed during a stop: what came of the stop, and of the next one */
  end: string[];
}

/** With the engine that is named, and with one that penumbra chooses. */
export interface EngineAttempts {
  kvm: Attempt;
  auto: Attempt;
}

/** Of lesserHost.ts: attempts on a host that grants them less and less. */
export interface LesserHostReport {
  /** what `uname -r` says in the guest */
  release: string;
  /** by QEMU's own user, of a guest with shared RAM and of one with private RAM */
  scopes: { scope: number; shared: Attempt; private: Attempt }[];
  /** by a user who may not open /dev/kvm */
  closedKvm: EngineAttempts;
  /** with a KVM that lacks one capability, or has only other bits of it */
  capabilities: ({ capability: number; value: number } & EngineAttempts)[];
  /** with a KVM whose processors lack what the guest's has */
  feature: Attempt;
  /** by root, while kernel.yama.ptrace_scope becomes 3 and afterwards */
  nobodyTraces: { session: Attempt; shared: Attempt; private: Attempt };
  /** QEMU's run states at the end */
  states: string[];
  /** from its first look, the guest's boot being over */
  milliseconds: number;
}
