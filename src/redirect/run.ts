import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { NativeRedirectRequest, NativeRunReport } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { childRefusal } from '../hypervisor/traceRight.js';
import type { Kernel } from '../kernel/kernel.js';
import { toolEnvironment } from './environment.js';
import { compilePolicy, type NativePolicy } from './policy.js';
import { findTool } from './tool.js';

export interface RunOptions {
  /** writes to the guest's files succeed in the shadow, and vanish with it */
  scratch?: boolean;
  /** milliseconds after which the guest's RAM is copied and the guest runs on; 200 unless given, 0 lets it stand */
  budget?: number;
  /** standard input, output and error of the tool; those of this process unless given */
  fds?: readonly [number, number, number];
  /** NAME=VALUE: more environment for the tool */
  environment?: readonly string[];
  signal?: AbortSignal;
}

export interface RunResult {
  /** as a shell gives it: 128 + the signal's number for a tool that a signal ended */
  exit: number;
  signal: string | undefined;
  /** processes that the tool left behind and that were ended */
  leftOver: number;
  /** calls that were refused, and how often */
  refused: Readonly<Record<string, number>>;
  notifications: number;
  guestCalls: number;
  /** how often the shadow was entered for them */
  guestEntries: number;
  /** how many of these entries had been made before the tool asked */
  foreseen: number;
  /** milliseconds: from the tool's start to its end, in the supervisor, waiting for the guest's kernel */
  milliseconds: { total: number; handling: number; guest: number };
}

const launcher = fileURLToPath(new URL('../../../build/Release/penumbra-launcher', import.meta.url));
const DEFAULT_BUDGET = 200;
let policy: NativePolicy | undefined;

/** What the native supervisor needs to know. @throws PenumbraError NO_TOOL, PERMISSION, UNSUPPORTED, NO_MEMBER */
export function redirectRequest(
  kernel: Kernel,
  task: bigint,
  words: readonly Buffer[],
  options: RunOptions,
): NativeRedirectRequest {
  const tool = findTool(words);
  requireChildren();
  policy ??= compilePolicy();
  return {
    policy,
    launcher,
    program: Buffer.from(tool.program),
    arguments: [...tool.arguments],
    environment: toolEnvironment(process.env, options.environment),
    fds: [...(options.fds ?? [0, 1, 2])],
    scratch: options.scratch ?? false,
    budgetMs: options.budget ?? DEFAULT_BUDGET,
    task,
    taskFiles: kernel.requireOffset('task_struct.files'),
    nextFd: kernel.requireOffset('files_struct.next_fd'),
  };
}

/** The arguments and results of a tool's system calls lie in its memory. */
function requireChildren(): void {
  const refusal = childRefusal();
  if (refusal === undefined) return;
  throw new PenumbraError(
    'PERMISSION',
    `user ${process.geteuid?.()} may not read the memory of programs that penumbra runs: ${refusal}. ` +
      'Without that right: all other commands',
  );
}

export function runResult(report: NativeRunReport): RunResult {
  const number = report.status & 0x7f;
  const signal =
    number === 0 ? undefined : Object.entries(constants.signals).find(([, value]) => value === number)?.[0];
  const cutShort = 1;
  const { total, handling, guest } = { total: report.totalMs, handling: report.handlingMs, guest: report.guestMs };
  return {
    exit: !report.ended ? cutShort : number === 0 ? (report.status >> 8) & 0xff : 128 + number,
    signal,
    leftOver: report.leftOver,
    refused: report.refused,
    notifications: report.notifications,
    guestCalls: report.guestCalls,
    guestEntries: report.guestEntries,
    foreseen: report.foreseen,
    milliseconds: { total, handling, guest },
  };
}
