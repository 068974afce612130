import { readFileSync } from 'node:fs';
import { PenumbraError } from '../errors.js';

/** As in native/redirect/policy.h. */
export interface NativeLocalPath {
  /** set of kinds of tools; 0 is all */
  kinds: number;
  match: 0 | 1;
  use: 0 | 1;
  path: string;
}

export interface NativeToolKind {
  kind: number;
  pattern: string;
}

export interface LocalFiles {
  localPaths: readonly NativeLocalPath[];
  toolKinds: readonly NativeToolKind[];
}

const PROFILE = new URL('../../../profiles/localfiles', import.meta.url);
const EXACT = 0;
const BELOW = 1;
const OPEN = 0;
const ANY = 1;
const MOST_KINDS = 32;

/** profiles/localfiles, compiled. @throws PenumbraError INTERNAL naming the line */
export function localFiles(text = readFileSync(PROFILE, 'utf8')): LocalFiles {
  const bits = new Map<string, number>();
  const localPaths: NativeLocalPath[] = [];
  const toolKinds: NativeToolKind[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const [first = '', second = '', ...rest] = line.trim().split(/\s+/);
    if (first === '' || first.startsWith('#')) continue;
    if (first === 'kind') {
      if (bits.has(second) || bits.size === MOST_KINDS - 1 || rest.length === 0) throw malformed(index + 1);
      bits.set(second, 1 << bits.size);
      toolKinds.push(...rest.map((pattern) => ({ kind: bits.get(second) as number, pattern })));
      continue;
    }
    const kinds = first === 'every' ? 0 : bits.get(first);
    const [path] = rest;
    if (kinds === undefined || !['open', 'any'].includes(second) || path === undefined || rest.length > 1) {
      throw malformed(index + 1);
    }
    const below = path.endsWith('/');
    localPaths.push({
      kinds,
      match: below ? BELOW : EXACT,
      use: second === 'open' ? OPEN : ANY,
      path: below ? path.slice(0, -1) : path,
    });
  }
  return { localPaths, toolKinds };
}

function malformed(line: number): PenumbraError {
  return new PenumbraError('INTERNAL', `profiles/localfiles line ${line} is malformed`);
}
