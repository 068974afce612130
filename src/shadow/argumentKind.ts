import { PenumbraError } from '../errors.js';

/** Meanings of arguments that are passed in a register as they are. */
export const VALUE_TYPES = [
  'int',
  'uint',
  'long',
  'ulong',
  'u64',
  'off',
  'fd',
  'dirfd',
  'pid',
  'uid',
  'gid',
  'mode',
  'dev',
  'signal',
  'key',
  'size',
  'count',
  'flags',
  'enum',
  'address',
  'any',
  'unused',
] as const;

export type ValueType = (typeof VALUE_TYPES)[number];
export type Direction = 'in' | 'out' | 'inout' | 'fill';

/** How long a buffer is: `plus + ceil(argument / divisor)` elements or bytes. */
export interface BufferLength {
  unit: 'elements' | 'bytes';
  /** Name of the argument that counts, or undefined when `plus` is all. */
  argument: string | undefined;
  /** The argument is a pointer to the length: set before the call, corrected by the kernel. */
  indirect: boolean;
  plus: number;
  divisor: number;
}

export type ArgumentKind =
  | { form: 'value'; type: ValueType /** of constants.ts, for flags and enum */; group?: string }
  | { form: 'string'; isPath: boolean }
  | { form: 'buffer'; direction: Direction; type: string; length: BufferLength | undefined };

export interface SyscallParameter {
  name: string;
  kind: ArgumentKind;
  /** Value when the caller gives none; for a buffer 0n means NULL. Undefined: it must be given, but for written buffers and their lengths. */
  fallback: bigint | undefined;
}

const DIRECTIONS: readonly string[] = ['in', 'out', 'inout', 'fill'];
const SYMBOLIC = /^(flags|enum)\(([a-z_]+)\)$/;
const BUFFER_TYPE = /^([a-z_][a-z0-9_]*)(?:([[{])(?:(\d+)\+)?(\*?)([a-z_][a-z0-9_]*|\d+)(?:\/(\d+))?[\]}])?$/;
const FALLBACK = /^(.*?)(?:(\?)|=(-?(?:0x[0-9a-f]+|\d+)))?$/;

/**
 * Reads `name:kind` of profiles/syscalls.x86_64, whose head describes the grammar.
 * @throws PenumbraError INTERNAL naming the text
 */
export function parseParameter(text: string): SyscallParameter {
  const colon = text.indexOf(':');
  const match = FALLBACK.exec(text.slice(colon + 1));
  if (colon < 1 || match === null) throw malformed(text);
  const [, kindText = '', optional, number] = match;
  return {
    name: text.slice(0, colon),
    kind: parseKind(kindText, text),
    fallback: optional === '?' ? 0n : number === undefined ? undefined : parseFallback(number),
  };
}

/** A kind as the profile writes it, without its length: for messages. */
export function kindText(kind: ArgumentKind): string {
  switch (kind.form) {
    case 'value':
      return kind.group === undefined ? kind.type : `${kind.type}(${kind.group})`;
    case 'string':
      return kind.isPath ? 'path' : 'string';
    case 'buffer':
      return `${kind.direction}:${kind.type}`;
  }
}

function parseKind(kind: string, whole: string): ArgumentKind {
  if (kind === 'path' || kind === 'string') return { form: 'string', isPath: kind === 'path' };
  if (kind !== 'flags' && kind !== 'enum' && (VALUE_TYPES as readonly string[]).includes(kind)) {
    return { form: 'value', type: kind as ValueType };
  }
  const symbolic = SYMBOLIC.exec(kind);
  if (symbolic !== null) return { form: 'value', type: symbolic[1] as 'flags' | 'enum', group: symbolic[2] as string };
  const [direction = '', type] = kind.split(':');
  if (DIRECTIONS.includes(direction) && type !== undefined) return parseBuffer(direction as Direction, type, whole);
  throw malformed(whole);
}

function parseBuffer(direction: Direction, text: string, whole: string): ArgumentKind {
  const match = BUFFER_TYPE.exec(text);
  if (match === null) throw malformed(whole);
  const [, type = '', bracket, plus = '0', star, counter, divisor = '1'] = match;
  if (counter === undefined) return { form: 'buffer', direction, type, length: undefined };
  const isNumber = /^\d/.test(counter);
  const length: BufferLength = {
    unit: bracket === '[' ? 'elements' : 'bytes',
    argument: isNumber ? undefined : counter,
    indirect: star === '*',
    plus: Number(plus) + (isNumber ? Number(counter) : 0),
    divisor: Number(divisor),
  };
  return { form: 'buffer', direction, type, length };
}

/** A leading zero is octal: the profile writes modes so. */
function parseFallback(text: string): bigint {
  const magnitude = text.replace('-', '').replace(/^0(?=[0-7])/, '0o');
  return text.startsWith('-') ? -BigInt(magnitude) : BigInt(magnitude);
}

function malformed(text: string): PenumbraError {
  return new PenumbraError('INTERNAL', `profiles/syscalls.x86_64: '${text}' is no argument`);
}
