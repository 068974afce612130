import { execFile } from 'node:child_process';
import { resolve } from 'node:path';
import { promisify } from 'node:util';

/**
 * The shared libraries that a program or library loads, and the loader, by the paths at which it looks for them:
 * those that ldd(1) prints. A program without any, statically linked, gives none.
 */
export async function librariesOf(path: string): Promise<string[]> {
  const printed = await promisify(execFile)('ldd', [path]).then(
    ({ stdout }) => stdout,
    (error: { stdout: string; stderr: string }) => {
      if (/not a dynamic executable/.test(error.stdout + error.stderr)) return '';
      throw error;
    },
  );
  const missing = /^\s*(\S+) => not found/m.exec(printed);
  if (missing) throw new Error(`${path} needs ${missing[1]}, which is not there`);
  // "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x...)", and "/lib64/ld-linux-x86-64.so.2 (0x...)".
  return [...printed.matchAll(/(?:=>|^)\s*(\/\S+) \(0x/gm)].map(([, library]) => resolve(library as string));
}
