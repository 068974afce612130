import { readFileSync } from 'node:fs';

const PROFILE = new URL('../../../profiles/readahead', import.meta.url);

/** profiles/readahead: patterns of the paths of files that are read as soon as they are open. */
export function readAhead(text = readFileSync(PROFILE, 'utf8')): readonly string[] {
  return text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
}
