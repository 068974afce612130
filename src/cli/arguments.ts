import { readFileSync } from 'node:fs';
import { escapeBytes } from '../text.js';

/**
 * Arguments may be any bytes, and Node.js gives those that are not UTF-8 with replacement characters in their places.
 * Here such a byte becomes a lone surrogate U+DC80..U+DCFF, as in Python's "surrogateescape": a string that a parser
 * passes on unharmed and from which the bytes can be had back.
 */

const REPLACEMENT = '\ufffd';
const FIRST = 0xdc00;
const LOWEST = 0xdc80;
const HIGHEST = 0xdcff;

/** This process's arguments, without the program and its script. */
export function commandLineArguments(): string[] {
  const given = process.argv.slice(2);
  if (!given.some((text) => text.includes(REPLACEMENT))) return given;
  const raw = splitAtNul(readFileSync('/proc/self/cmdline'));
  return raw.slice(raw.length - given.length).map(decode);
}

/** The bytes that an argument was given as. */
export function argumentBytes(text: string): Buffer {
  if (!/[\udc80-\udcff]/.test(text)) return Buffer.from(text);
  const parts: Buffer[] = [];
  for (const character of text) {
    const code = character.codePointAt(0) as number;
    parts.push(code >= LOWEST && code <= HIGHEST ? Buffer.of(code - FIRST) : Buffer.from(character));
  }
  return Buffer.concat(parts);
}

/** An argument for messages. */
export function printableArgument(text: string): string {
  return escapeBytes(argumentBytes(text));
}

function splitAtNul(bytes: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  for (let from = 0, nul = bytes.indexOf(0); nul >= 0; from = nul + 1, nul = bytes.indexOf(0, from)) {
    parts.push(bytes.subarray(from, nul));
  }
  return parts;
}

/** Valid sequences as they are, every other byte as a surrogate of its own. */
function decode(bytes: Buffer): string {
  let text = '';
  for (let at = 0; at < bytes.length; ) {
    const length = [1, 2, 3, 4].find((size) => isOneCharacter(bytes.subarray(at, at + size)));
    if (length === undefined) text += String.fromCharCode(FIRST + (bytes[at] as number));
    else text += bytes.toString('utf8', at, at + length);
    at += length ?? 1;
  }
  return text;
}

function isOneCharacter(bytes: Buffer): boolean {
  const text = bytes.toString('utf8');
  return [...text].length === 1 && Buffer.from(text).equals(bytes);
}
