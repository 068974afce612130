import { lstat, mkdir, readdir, rm } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { PenumbraError } from '../errors.js';
import { LabGuest } from './guest.js';
import type { LabSpec } from './spec.js';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$/;

/** A guest that `penumbra lab up` started, as `lab ls` lists it. */
export interface LabEntry {
  name: string;
  /** `gone`: QEMU ended by itself, its folder is still there. */
  state: 'booting' | 'running' | 'gone';
  pid: number;
  /** Path of its QMP socket. */
  qmp: string;
  release: string;
  spec: Readonly<LabSpec>;
}

/**
 * Boots a guest that stays when this process ends, and returns when it is up. Throws BUSY when one of this name runs,
 * BAD_ARGUMENT for a bad name, and what LabGuest.start throws.
 */
export async function labUp(name: string, spec: Partial<LabSpec> = {}): Promise<LabEntry> {
  const folder = await folderOf(name);
  await removeIfGone(folder);
  if ((await mkdir(folder, { recursive: true, mode: 0o700 })) === undefined) {
    throw new PenumbraError('BUSY', `lab guest ${name} is there already (penumbra lab down ${name})`);
  }
  return entry(name, await LabGuest.start(spec, { folder, outlive: true }));
}

/** All of this user's guests, by name. */
export async function labList(): Promise<LabEntry[]> {
  const base = await registryFolder();
  const entries: LabEntry[] = [];
  for (const name of (await readdir(base)).sort()) {
    const guest = await LabGuest.open(join(base, name));
    if (guest !== undefined) entries.push(entry(name, guest));
  }
  return entries;
}

/** The running guest of this name. Throws NO_GUEST. */
export async function labOpen(name: string): Promise<LabGuest> {
  const guest = await LabGuest.open(await folderOf(name));
  if (!guest?.isRunning) throw new PenumbraError('NO_GUEST', `no lab guest ${name} runs (penumbra lab ls)`);
  return guest;
}

/** Ends a guest and forgets it. Throws NO_GUEST when there is none of this name. */
export async function labDown(name: string): Promise<void> {
  const folder = await folderOf(name);
  const guest = await LabGuest.open(folder);
  if (guest !== undefined) return guest.stop();
  // The start of a guest was cut short before it had a process.
  await rm(folder, { recursive: true }).catch(() => {
    throw new PenumbraError('NO_GUEST', `there is no lab guest ${name} (penumbra lab ls)`);
  });
}

function entry(name: string, guest: LabGuest): LabEntry {
  const state = !guest.isRunning ? 'gone' : guest.bootMs === undefined ? 'booting' : 'running';
  return { name, state, pid: guest.pid, qmp: guest.qmp, release: guest.release, spec: guest.spec };
}

async function removeIfGone(folder: string): Promise<void> {
  const guest = await LabGuest.open(folder);
  if (guest?.isLeftOver) await guest.stop();
}

async function folderOf(name: string): Promise<string> {
  if (!NAME.test(name)) throw new PenumbraError('BAD_ARGUMENT', `not a name for a lab guest: ${JSON.stringify(name)}`);
  return join(await registryFolder(), name);
}

/** Under /tmp anyone could have put a folder of this name there first: it must be ours, and ours alone. */
async function registryFolder(): Promise<string> {
  const { uid } = userInfo();
  const runtime = process.env.XDG_RUNTIME_DIR;
  const own = runtime ? join(runtime, 'penumbra') : `/tmp/penumbra-${uid}`;
  await mkdir(own, { recursive: true, mode: 0o700 });
  const status = await lstat(own);
  if (!status.isDirectory() || status.uid !== uid || (status.mode & 0o077) !== 0) {
    throw new PenumbraError('PERMISSION', `${own} is not a private folder of this user (remove it, or chmod 700)`);
  }
  const base = join(own, 'lab');
  await mkdir(base, { recursive: true, mode: 0o700 });
  return base;
}
