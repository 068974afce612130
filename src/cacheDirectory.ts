import { mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';

/**
 * Where penumbra keeps what it can compute anew: a folder of that name below $XDG_CACHE_HOME/penumbra, which may not
 * exist yet; undefined when the user has no home. (XDG Base Directory Specification: a relative $XDG_CACHE_HOME is
 * ignored.)
 */
export function cacheDirectory(name: string): string | undefined {
  const configured = process.env['XDG_CACHE_HOME'];
  if (configured !== undefined && isAbsolute(configured)) return join(configured, 'penumbra', name);
  try {
    return join(homedir(), '.cache', 'penumbra', name);
  } catch {
    return undefined;
  }
}

/** Makes such a folder and those above it that penumbra may have to make. Throws what mkdirSync throws. */
export function makeCacheDirectory(path: string): void {
  makeDirectory(path, 3);
}

/** Makes a directory and up to `above` missing ones above it. (mkdirSync's `recursive` never returns below /proc.) */
function makeDirectory(path: string, above: number): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EEXIST') return;
    if (code !== 'ENOENT' || above === 0) throw cause;
    makeDirectory(dirname(path), above - 1);
    mkdirSync(path, { mode: 0o700 });
  }
}
