import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

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
