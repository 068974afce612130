import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { PenumbraError } from '../errors.js';
import { LabConsole } from './console.js';
import { identify, isAlive, type ProcessIdentity } from './process.js';
import type { QemuCommand } from './qemu.js';

const CONNECT_INTERVAL_MS = 5;

/**
 * Starts QEMU with its output in `log`, in a session of its own. Unless it shall outlive this process the kernel kills
 * it when this process ends in whatever way (prctl(2), PR_SET_PDEATHSIG). Throws GUEST_GONE when it did not start.
 */
export async function launch(command: QemuCommand, log: string, outlive: boolean): Promise<ProcessIdentity> {
  const child = spawnWithLog(command, log, outlive);
  const failure = await startFailure(child);
  const process = child.pid === undefined ? undefined : identify(child.pid);
  if (process === undefined) throw new PenumbraError('GUEST_GONE', 'QEMU did not start', { cause: failure });
  child.unref();
  return process;
}

/** Connects as soon as QEMU listens. Throws the system's error when QEMU ends before it does. */
export async function connectConsole(path: string, emulator: ProcessIdentity): Promise<LabConsole> {
  for (;;) {
    try {
      return await LabConsole.connect(path);
    } catch (error) {
      if (!isAlive(emulator)) throw error;
      await sleep(CONNECT_INTERVAL_MS);
    }
  }
}

function spawnWithLog(command: QemuCommand, log: string, outlive: boolean): ChildProcess {
  const output = openSync(log, 'w', 0o600);
  const options: SpawnOptions = { stdio: ['ignore', output, output], detached: true };
  try {
    if (outlive) return spawn(command.program, command.arguments, options);
    return spawn('setpriv', ['--pdeathsig', 'KILL', command.program, ...command.arguments], options);
  } finally {
    closeSync(output);
  }
}

function startFailure(child: ChildProcess): Promise<Error | undefined> {
  return new Promise((resolve) => {
    child.once('spawn', () => resolve(undefined));
    child.once('error', resolve);
  });
}
