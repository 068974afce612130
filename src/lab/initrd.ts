import { execFile } from 'node:child_process';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findBusybox, type LabKernel, USERLAND } from './artefacts.js';
import { type CpioEntry, cpioArchive, withParents } from './cpio.js';
import { modulesInOrder } from './modules.js';

/** Inserted at boot: disk drivers, and a few more so that the guest has module symbols to look up. */
export const GUEST_MODULES = ['virtio_pci', 'virtio_mmio', 'virtio_blk', 'virtio_rng', 'fuse', 'overlay'];

/** Where the kernel and the scripts expect to mount or to write. */
const FOLDERS = ['data', 'dev', 'etc', 'home', 'home/alice', 'lib', 'proc', 'root', 'run', 'srv', 'sys', 'tmp', 'var'];

/**
 * Builds the initial RAM disk which is a lab guest's whole system: busybox, the scripts of src/lab/userland, modules.
 * It is not compressed: under emulation the guest would take longer to unpack it than the host takes to load it.
 */
export async function labInitrd(kernel: LabKernel, more: readonly CpioEntry[] = []): Promise<Buffer> {
  const parts = await Promise.all([busybox(), userland(), modules(kernel)]);
  const folders = FOLDERS.map((name): CpioEntry => ({ kind: 'folder', name, mode: 0o755 }));
  return cpioArchive(withParents([...folders, ...more, ...parts.flat()]));
}

/** busybox with a link for each of its applets; it is /init too. */
export async function busybox(): Promise<CpioEntry[]> {
  const path = findBusybox();
  const { stdout } = await promisify(execFile)(path, ['--list-full']);
  const applets = stdout.split('\n').filter((name) => name !== '' && name !== 'bin/busybox');
  return [
    { kind: 'file', name: 'bin/busybox', mode: 0o755, content: await readFile(path) },
    ...applets.map((name): CpioEntry => ({ kind: 'link', name, target: '/bin/busybox' })),
    { kind: 'link', name: 'init', target: '/bin/busybox' },
  ];
}

async function userland(): Promise<CpioEntry[]> {
  const names = await readdir(USERLAND, { recursive: true });
  const entries = await Promise.all(names.sort().map(userlandFile));
  return entries.filter((entry) => entry !== undefined);
}

async function userlandFile(name: string): Promise<CpioEntry | undefined> {
  const path = join(USERLAND, name);
  const { mode } = await stat(path);
  const isFile = (mode & 0o170000) === 0o100000;
  return isFile ? { kind: 'file', name, mode: mode & 0o755, content: await readFile(path) } : undefined;
}

/** The number in front makes the shell's `*` insert them in order. */
async function modules(kernel: LabKernel): Promise<CpioEntry[]> {
  const ordered = await modulesInOrder(kernel.modules, GUEST_MODULES);
  return ordered.map(({ name, content }, index) => {
    const file = `${String(index).padStart(2, '0')}-${name}.ko`;
    return { kind: 'file', name: `lib/modules/${file}`, mode: 0o644, content };
  });
}
