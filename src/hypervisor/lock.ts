import { existsSync, lstatSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { addon } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { guestName, type QemuProcess } from './qemuProcess.js';

/** One penumbra per guest: held from before anything is asked of QEMU until everything is undone. */
export interface GuestLock {
  release(): void;
}

/**
 * Takes the guest for this process. The kernel gives the lock back when the process ends, however it ends.
 * @throws PenumbraError BUSY naming the process that has it
 */
export function lockGuest(qemu: QemuProcess): GuestLock {
  const path = join(lockFolder(), `guest-${qemu.pid}-${qemu.startTime}.lock`);
  const lock = addon.tryLockFile(path, `${process.pid} ${process.argv.join(' ')}`);
  if ('holder' in lock) throw busy(qemu, lock.holder);
  let held = true;
  return {
    release() {
      if (held) addon.unlockFile(path, lock.fd);
      held = false;
    },
  };
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
  const folder = uid === 0 ? '/run/penumbra' : runtime && existsSync(runtime) ? join(runtime, 'penumbra') : `/tmp/penumbra-${uid}`;
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
