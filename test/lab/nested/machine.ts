import { rmSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import type { Test } from 'tap';
import { findEmulator, findKernel } from '../../../src/lab/artefacts.js';
import type { CommandResult, LabConsole } from '../../../src/lab/console.js';
import { connectConsole, launch } from '../../../src/lab/launch.js';
import { endWithThisProcess, release } from '../../../src/lab/lifetime.js';
import { endProcess, type ProcessIdentity, signal } from '../../../src/lab/process.js';
import type { QemuCommand } from '../../../src/lab/qemu.js';
import { TruthMonitor } from '../truthMonitor.js';
import { type HostFile, L1_KERNEL, L1_ROOT } from './contents.js';
import { l1Image } from './image.js';

/** It boots in 3 s on a machine that has nothing else to do. */
const BOOT_TIMEOUT_MS = 120_000;
const RUN_TIMEOUT_MS = 600_000;
const STOP_PATIENCE_MS = 2_000;
const MEMORY_MIB = 1536;
const NUDGE_EVERY_MS = 500;
const LOG_TAIL = 4_000;

export interface NestedOptions {
  /** further files to be put into L1 */
  files?: readonly HostFile[];
}

/**
 * Boots L1 for a test: `await using l1 = await nestedLab(t)`. It ends with its scope, at the latest with the test; when
 * the test failed, what L1 printed last becomes a comment.
 */
export async function nestedLab(t: Test, options: NestedOptions = {}): Promise<NestedLab> {
  const lab = await NestedLab.start(options);
  t.teardown(async () => {
    if (!t.passing()) t.comment(`L1 printed last: ${await lab.lastWords()}`);
    await lab.stop();
  });
  return lab;
}

/**
 * L1: a Linux with a working KVM, on any machine. QEMU emulates an AMD processor with SVM and nested paging; in it run
 * Debian's kernel with kvm_amd, node, this project (as built) and QEMU for guests of the second level, L2.
 */
export class NestedLab implements AsyncDisposable {
  /** from QEMU's start until L1 took commands */
  readonly bootMs: number;
  readonly #folder: string;
  readonly #process: ProcessIdentity;
  readonly #console: LabConsole;
  readonly #monitor: TruthMonitor;
  readonly #nudge: NodeJS.Timeout;

  private constructor(parts: {
    folder: string;
    process: ProcessIdentity;
    console: LabConsole;
    monitor: TruthMonitor;
    bootMs: number;
  }) {
    this.#folder = parts.folder;
    this.#process = parts.process;
    this.#console = parts.console;
    this.#monitor = parts.monitor;
    this.bootMs = parts.bootMs;
    this.#nudge = setInterval(() => nudge(this.#monitor), NUDGE_EVERY_MS).unref();
  }

  /** @throws PenumbraError UNSUPPORTED when QEMU 10 or the kernel is not there; Error with what L1 printed last */
  static async start({ files = [] }: NestedOptions = {}): Promise<NestedLab> {
    const image = await l1Image(files);
    const folder = await mkdtemp(join(tmpdir(), 'penumbra-nested-'));
    const begin = performance.now();
    let process: ProcessIdentity | undefined;
    try {
      process = await launch(await command(folder, image.fd), logs(folder).emulator, false);
      const console = await connectConsole(consolePath(folder), process);
      await console.ready(BOOT_TIMEOUT_MS);
      const bootMs = performance.now() - begin;
      const monitor = await TruthMonitor.connect(monitorPath(folder));
      const lab = new NestedLab({ folder, process, console, monitor, bootMs });
      endWithThisProcess(lab);
      return lab;
    } catch (cause) {
      const printed = await lastWords(folder);
      if (process !== undefined) await endProcess(process, STOP_PATIENCE_MS);
      await rm(folder, { recursive: true });
      throw new Error(`L1 did not come up; it printed:\n${printed}`, { cause });
    } finally {
      await image.close();
    }
  }

  /**
   * Runs a shell command as root in the project's folder in L1. An exit status other than 0 is an answer, not an error.
   * @throws PenumbraError TIMEOUT, GUEST_GONE
   */
  run(command: string, timeoutMs = RUN_TIMEOUT_MS): Promise<CommandResult> {
    return this.#console.run(`cd /${L1_ROOT} && ${command}`, timeoutMs);
  }

  /** The end of what QEMU and L1's kernel printed. */
  lastWords(): Promise<string> {
    return lastWords(this.#folder);
  }

  /** May be called twice. */
  async stop(): Promise<void> {
    clearInterval(this.#nudge);
    this.#monitor.close();
    this.#console.close();
    await endProcess(this.#process, STOP_PATIENCE_MS);
    await rm(this.#folder, { recursive: true, force: true });
    release(this);
  }

  stopNow(): void {
    signal(this.#process, 'SIGKILL');
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/**
 * QEMU 10: before, hardware breakpoints do not fire in a guest of the second level. One processor: with two, a wake-up
 * from one to the other takes milliseconds. `tsc=reliable` gives L2 a kvm-clock that keeps time by itself.
 */
async function command(folder: string, imageFd: number): Promise<QemuCommand> {
  const kernel = await findKernel(L1_KERNEL);
  const words = 'console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check cryptomgr.notests';
  return {
    program: findEmulator('qemu10'),
    arguments: [
      ...['-name', 'penumbra-l1', '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', '-machine', 'pc'],
      ...['-accel', 'tcg,thread=multi', '-cpu', 'EPYC-v3,+svm,+npt', '-smp', '1', '-m', String(MEMORY_MIB)],
      ...['-kernel', kernel.image, '-initrd', `/proc/${process.pid}/fd/${imageFd}`, '-append', words],
      ...['-serial', `file:${logs(folder).kernel}`],
      ...['-qmp', `unix:${monitorPath(folder)},server=on,wait=off`],
      ...['-chardev', `socket,id=console,path=${consolePath(folder)},server=on,wait=off`, '-serial', 'chardev:console'],
    ],
  };
}

/**
 * A shift key, pressed and let go. QEMU 10.0 changes a processor's word of pending interrupts without a lock when a
 * VMRUN injects one (target/i386/tcg/system/svm_helper.c): one that a timer sets at that moment is forgotten, and where
 * nothing else comes L1 halts for ever, its timer's interrupt pending. Any other interrupt reminds the processor of all.
 */
function nudge(monitor: TruthMonitor): void {
  monitor.execute('send-key', { keys: [{ type: 'qcode', data: 'shift' }] }).catch(() => {
    // L1 has ended; whoever waits for it is told.
  });
}

function monitorPath(folder: string): string {
  return join(folder, 'qmp.sock');
}

function consolePath(folder: string): string {
  return join(folder, 'console.sock');
}

function logs(folder: string): { emulator: string; kernel: string } {
  return { emulator: join(folder, 'qemu.log'), kernel: join(folder, 'kernel.log') };
}

async function lastWords(folder: string): Promise<string> {
  const texts = await Promise.all(Object.values(logs(folder)).map((path) => readFile(path, 'utf8').catch(() => '')));
  return texts.map((text) => text.slice(-LOG_TAIL).trim()).join('\n');
}
