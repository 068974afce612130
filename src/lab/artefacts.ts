import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { PenumbraError } from '../errors.js';
import type { LabSpec } from './spec.js';

/** The checkout: this file runs as dist/src/lab/artefacts.js. */
const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const KERNELS = join(ROOT, '.vendor/kernels');
const EMULATORS = {
  system: ['/usr/bin/qemu-system-x86_64', '/usr/local/bin/qemu-system-x86_64'],
  qemu10: [join(ROOT, '.vendor/qemu10/bin/qemu-system-x86_64')],
};
const BUSYBOXES = ['/bin/busybox', '/usr/bin/busybox'];

/** The guest's scripts and tables, unpacked as they are into its root. */
export const USERLAND = join(ROOT, 'src/lab/userland');

/** A guest kernel as scripts/fetch laid it down. */
export interface LabKernel {
  image: string;
  /** Folder of its modules. */
  modules: string;
  /** What `uname -r` says. */
  release: string;
}

/** Throws UNSUPPORTED when scripts/setup has not fetched this kernel. */
export async function findKernel(version: LabSpec['kernel']): Promise<LabKernel> {
  const folder = join(KERNELS, version);
  const image = existing([join(folder, 'vmlinuz')], `guest kernel ${version}`);
  const release = await readFile(join(folder, 'release'), 'utf8');
  return { image, modules: join(folder, 'modules'), release: release.trim() };
}

/** Path of an emulator. Throws UNSUPPORTED when it is not installed. */
export function findEmulator(emulator: LabSpec['emulator']): string {
  return existing(EMULATORS[emulator], emulator === 'system' ? 'qemu-system-x86_64' : 'QEMU 10');
}

export function findBusybox(): string {
  return existing(BUSYBOXES, 'busybox');
}

/** The major number of what `qemu --version` says. */
export async function emulatorMajor(path: string): Promise<number> {
  const { stdout } = await promisify(execFile)(path, ['--version']);
  const major = /version (\d+)\./.exec(stdout)?.[1];
  if (major === undefined) throw new PenumbraError('NOT_QEMU', `${path} --version does not look like QEMU's`);
  return Number(major);
}

function existing(candidates: readonly string[], what: string): string {
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) throw new PenumbraError('UNSUPPORTED', `${what} is not here (run scripts/setup)`);
  return found;
}
