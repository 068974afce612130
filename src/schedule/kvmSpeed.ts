import { randomBytes } from 'node:crypto';
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { addon, type NativeCalibration } from '../binding.js';
import { cacheDirectory, makeCacheDirectory } from '../cacheDirectory.js';

const fileName = 'kvm.json';
const bootId = '/proc/sys/kernel/random/boot_id';

/** What is remembered: `host` names a boot of a host and its device, so that another one is measured anew. */
interface Remembered {
  host: string;
  speed: NativeCalibration;
}

/**
 * How fast the KVM at `device` is: measured once per boot of the host, which takes some 30 ms, and remembered in
 * `directory`.
 * @throws PenumbraError UNSUPPORTED, PERMISSION, ENGINE
 */
export async function kvmSpeed(
  device: string,
  directory: string | undefined = cacheDirectory('engines'),
): Promise<NativeCalibration> {
  const host = identify(device);
  const remembered = recall(directory);
  if (remembered?.host === host) return remembered.speed;
  const measured = await addon.calibrateKvm(device);
  remember(directory, { host, speed: measured });
  return measured;
}

/** Loading another KVM module makes the device anew. */
function identify(device: string): string {
  try {
    const { ino, rdev, ctimeMs } = statSync(device);
    return [readFileSync(bootId, 'latin1').trim(), device, ino, rdev, ctimeMs].join(' ');
  } catch {
    return device;
  }
}

function recall(directory: string | undefined): Remembered | undefined {
  if (directory === undefined) return undefined;
  try {
    const value = JSON.parse(readFileSync(join(directory, fileName), 'utf8')) as Partial<Remembered>;
    const { guestRate, hostRate, exitNs } = value.speed ?? {};
    const rates = [guestRate, hostRate, exitNs];
    const sane = typeof value.host === 'string' && rates.every((rate) => Number.isFinite(rate) && (rate as number) > 0);
    return sane ? (value as Remembered) : undefined;
  } catch {
    return undefined;
  }
}

/** A cache that cannot be written costs time only. */
function remember(directory: string | undefined, value: Remembered): void {
  if (directory === undefined) return;
  try {
    makeCacheDirectory(directory);
    const unfinished = join(directory, `.${fileName}.${process.pid}.${randomBytes(4).toString('hex')}`);
    writeFileSync(unfinished, JSON.stringify(value), { mode: 0o600, flag: 'wx' });
    renameSync(unfinished, join(directory, fileName));
  } catch {
    // the next session measures again
  }
}
