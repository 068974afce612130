import { existsSync, lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { addon } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { guestName, type QemuProcess } from './qemuProcess.js';

/** One penumbra per guest: held from before anything is asked of QEMU until everything is undone. */
export interface GuestLock {
  release(): void;
}

/** How long the lock of a killed process may live on: in a child of it that has not come to its exec yet. */
const STALE_MS = 1000;
const RETRY_MS = 10;

/**
 * Takes the guest for this process. The kernel gives the lock back when the process ends, however it ends. Waits (and
 * blocks) only for the lock of a process that is dead already.
 * @throws PenumbraError BUSY naming the process that has it
 */
export function lockGuest(qemu: QemuProcess): GuestLock {
  const path = join(lockFolder(), `guest-${qemu.pid}-${qemu.startTime}.lock`);
  const giveUp = performance.now() + STALE_MS;
  for (;;) {
    const lock = addon.tryLockFile(path, `${process.pid} ${process.argv.join(' ')}`);
    if ('fd' in lock) return new HeldLock(path, lock.fd);
    const holder = Number(lock.holder.split(' ')[0]);
    // Without a number it is being written at this moment.
    if ((holder > 0 && isAlive(holder)) || performance.now() > giveUp) throw busy(qemu, lock.holder);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, RETRY_MS);
  }
}

class HeldLock implements GuestLock {
  #held = true;

  constructor(
    private readonly path: string,
    private readonly fd: number,
  ) {}

  release(): void {
    if (this.#held) addon.unlockFile(this.path, this.fd);
    this.#held = false;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function busy(qemu: QemuProcess, holder: string): PenumbraError {
  const [pid, ...command] = holder.split(' ');
  const who = pid ? `process ${pid} (${command.join(' ')})` : 'another process';
  return new PenumbraError('BUSY', `guest ${guestName(qemu)} is in use by ${who}: wait for it or end it`);
}

/** Root has one folder whatever its environment says; others their runtime directory, or one of their own in /tmp. */
function lockFolder(): string {
  const uid = process.geteuid?.() ?? 0;
  const runtime = process.env['XDG_RUNTIME_DIR'];
  const folder =
    uid === 0 ? '/run/penumbra' : runtime && existsSync(runtime) ? join(runtime, 'penumbra') : `/tmp/penumbra-${uid}`;
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    throw new PenumbraError('PERMISSION', `cannot make the folder for lock files ${folder}`, { cause });
  }
  const status = lstatSync(folder);
  // In /tmp anybody could have made it first, to lead our lock files astray.
  if (!status.isDirectory() || status.uid !== uid || (status.mode & 0o022) !== 0) {
    throw new PenumbraError('PERMISSION', `${folder} is not a folder of user ${uid} that only this user may write to`);
  }
  return folder;
}
