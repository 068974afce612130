import { PenumbraError } from '../errors.js';
import { AT_FDCWD, O_DIRECTORY, O_PATH } from '../shadow/constants.js';
import type { Operand, StepList, StepReference } from '../shadow/stepList.js';
import { escapeBytes } from '../text.js';

const SLASH = 0x2f;
/** uapi linux/limits.h, with the terminating NUL */
const PATH_MAX = 4096;
/** Long enough for any message, short enough for one line. */
const LONGEST_IN_MESSAGE = 200;

/** A path as the guest gets it: UTF-8 for a string. @throws PenumbraError BAD_ARGUMENT when it is empty or holds a NUL */
export function withoutNul(path: string | Buffer): Buffer {
  const bytes = typeof path === 'string' ? Buffer.from(path) : path;
  if (bytes.length === 0) throw new PenumbraError('BAD_ARGUMENT', 'an empty path names no file');
  if (bytes.includes(0)) throw new PenumbraError('BAD_ARGUMENT', 'a path holds no NUL byte');
  return bytes;
}

/** A path for messages: escaped, and its middle left out when it is very long. */
export function printablePath(path: Buffer): string {
  if (path.length <= LONGEST_IN_MESSAGE) return escapeBytes(path);
  const half = LONGEST_IN_MESSAGE / 2;
  const left = `${escapeBytes(path.subarray(0, half))}...${escapeBytes(path.subarray(-half))}`;
  return `${left} (${path.length} bytes)`;
}

export function joinPath(directory: Buffer, name: Buffer): Buffer {
  const parts = directory.at(-1) === SLASH ? [directory, name] : [directory, separator, name];
  return Buffer.concat(parts);
}
const separator = Buffer.from('/');

/** The part after the last slash; for `/` and `a/` what stands before it, as find(1) has it. */
export function baseName(path: Buffer): Buffer {
  let end = path.length;
  while (end > 1 && path[end - 1] === SLASH) end -= 1;
  const from = path.lastIndexOf(SLASH, end - 2) + 1;
  return end === 1 ? path.subarray(0, 1) : path.subarray(from, end);
}

/**
 * Adds the steps that open a path which may be longer than the kernel takes at once: then in hops, each from the
 * directory before.
 */
export function openLongPath(list: StepList, path: Buffer, flags: number): StepReference {
  const passed: StepReference[] = [];
  let from: Operand = AT_FDCWD;
  let rest = path;
  for (;;) {
    const cut = rest.length < PATH_MAX ? 0 : rest.lastIndexOf(SLASH, PATH_MAX - 2);
    if (cut <= 0) break;
    from = list.open(from, rest.subarray(0, cut), O_PATH | O_DIRECTORY);
    passed.push(from);
    rest = rest.subarray(cut + 1);
  }
  const opened = list.open(from, rest, flags);
  for (const directory of passed) list.close(directory);
  return opened;
}
