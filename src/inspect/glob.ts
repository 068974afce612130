/**
 * A shell pattern over bytes, as fnmatch(3) without flags matches a file's name: `*`, `?`, `[...]`, and a backslash that
 * takes the next byte for itself. A byte that is no part of a character is matched like a character, and so is each byte
 * of a character of several.
 */
export type Glob = (name: Uint8Array) => boolean;

type Element = { kind: 'any' } | { kind: 'one'; matches: (byte: number) => boolean };

const STAR = 0x2a;
const QUESTION = 0x3f;
const BACKSLASH = 0x5c;
const OPEN = 0x5b;
const CLOSE = 0x5d;
const HYPHEN = 0x2d;
const BANG = 0x21;
const CARET = 0x5e;

export function compileGlob(pattern: Uint8Array): Glob {
  const elements: Element[] = [];
  for (let at = 0; at < pattern.length; ) {
    const byte = pattern[at] as number;
    const set = byte === OPEN ? readSet(pattern, at + 1) : undefined;
    if (set !== undefined) {
      elements.push({ kind: 'one', matches: set.matches });
      at = set.end;
    } else if (byte === STAR) {
      if (elements.at(-1)?.kind !== 'any') elements.push({ kind: 'any' });
      at += 1;
    } else if (byte === QUESTION) {
      elements.push({ kind: 'one', matches: () => true });
      at += 1;
    } else {
      const isEscape = byte === BACKSLASH && at + 1 < pattern.length;
      const literal = isEscape ? (pattern[at + 1] as number) : byte;
      elements.push({ kind: 'one', matches: (other) => other === literal });
      at += isEscape ? 2 : 1;
    }
  }
  return (name) => matchElements(elements, name);
}

/** Goes back to the last star only: the time is at most the product of the lengths. */
function matchElements(elements: readonly Element[], name: Uint8Array): boolean {
  let element = 0;
  let star = -1;
  let resume = 0;
  for (let at = 0; at < name.length; ) {
    const current = elements[element];
    if (current?.kind === 'any') {
      star = element;
      resume = at;
      element += 1;
    } else if (current?.matches(name[at] as number)) {
      element += 1;
      at += 1;
    } else if (star >= 0) {
      resume += 1;
      at = resume;
      element = star + 1;
    } else return false;
  }
  while (elements[element]?.kind === 'any') element += 1;
  return element === elements.length;
}

/** A bracket expression from behind its bracket; undefined when nothing closes it: then it stands for itself. */
function readSet(pattern: Uint8Array, from: number): { matches: (byte: number) => boolean; end: number } | undefined {
  const negated = pattern[from] === BANG || pattern[from] === CARET;
  const members = new Set<number>();
  const first = from + (negated ? 1 : 0);
  for (let at = first; at < pattern.length; ) {
    if (pattern[at] === CLOSE && at > first) {
      return { matches: (byte) => members.has(byte) !== negated, end: at + 1 };
    }
    const low = readMember(pattern, at);
    const isRange = pattern[low.end] === HYPHEN && low.end + 1 < pattern.length && pattern[low.end + 1] !== CLOSE;
    const high = isRange ? readMember(pattern, low.end + 1) : low;
    for (let byte = low.byte; byte <= high.byte; byte += 1) members.add(byte);
    at = high.end;
  }
  return undefined;
}

function readMember(pattern: Uint8Array, at: number): { byte: number; end: number } {
  const isEscape = pattern[at] === BACKSLASH && at + 1 < pattern.length;
  return { byte: pattern[at + (isEscape ? 1 : 0)] as number, end: at + (isEscape ? 2 : 1) };
}
