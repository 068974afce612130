import { lstat, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Something to be ended at once, without waiting, when this process ends. */
export interface Ending {
  stopNow(): void;
}

/** Names of the folders that guests get when nobody chose one. */
export const FOLDER_PREFIX = 'penumbra-lab-';
/** Where files live in memory, on every Linux that has it mounted. */
export const MEMORY_FOLDER = '/dev/shm';

const own = new Set<Ending>();
let watching = false;

/**
 * From now on `ending` does not outlive this process when it ends by itself. When it is killed the kernel ends QEMU
 * (src/lab/launch.ts), and the folder waits for the next sweep: no signal handler here takes part in what others do.
 */
export function endWithThisProcess(ending: Ending): void {
  own.add(ending);
  if (watching) return;
  watching = true;
  process.on('exit', stopAllNow);
}

export function release(ending: Ending): void {
  own.delete(ending);
}

/** This user's folders of guests, left over or in use. */
export async function guestFolders(): Promise<string[]> {
  const found: string[] = [];
  for (const base of new Set([tmpdir(), MEMORY_FOLDER])) {
    const names = await readdir(base).catch(() => []);
    for (const name of names.filter((name) => name.startsWith(FOLDER_PREFIX))) {
      if (await isOurs(join(base, name))) found.push(join(base, name));
    }
  }
  return found;
}

/** Others may put folders of such names there as well. */
async function isOurs(path: string): Promise<boolean> {
  const status = await lstat(path).catch(() => undefined);
  return status?.isDirectory() === true && status.uid === process.getuid?.();
}

function stopAllNow(): void {
  for (const ending of own) ending.stopNow();
  own.clear();
}
