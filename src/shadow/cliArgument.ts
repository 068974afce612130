/** Arguments of `penumbra syscall` as the user types them. */
import { PenumbraError } from '../errors.js';
import type { ArgumentKind, SyscallParameter } from './argumentKind.js';
import { kindText } from './argumentKind.js';
import { parseNumber, parseSymbols } from './constants.js';
import { out, rawAddress, type SyscallArgument } from './syscallArgument.js';

const OUT = /^@([0-9]*)$/;
const HEX = /^hex:((?:[0-9a-f]{2})*)$/i;

/**
 * Reads one argument:
 *
 * - values: decimal, 0x hexadecimal, 0 octal, symbols, and several of them with | (O_RDONLY|O_CLOEXEC);
 * - paths and strings: literally, whatever they contain;
 * - buffers to be read: text literally, `hex:00ff` as bytes, structures and vectors as JSON;
 * - buffers to be written: `@` for the natural size, `@512` for 512 bytes;
 * - pointers other than paths and strings: NULL, or a number for an address of the borrowed task.
 *
 * @throws PenumbraError BAD_ARGUMENT saying what was expected
 */
export function parseCliArgument(parameter: SyscallParameter, text: string): SyscallArgument {
  try {
    return parse(parameter.kind, text);
  } catch (cause) {
    if (!(cause instanceof PenumbraError)) throw cause;
    throw new PenumbraError('BAD_ARGUMENT', `${parameter.name} (${kindText(parameter.kind)}): ${cause.message}`, { cause });
  }
}

/**
 * Reads the whole argument list; more arguments than the call has are passed on for `marshal` to refuse.
 * @throws PenumbraError BAD_ARGUMENT
 */
export function parseCliArguments(parameters: readonly SyscallParameter[], texts: readonly string[]): SyscallArgument[] {
  return texts.map((text, index) => {
    const parameter = parameters[index];
    return parameter === undefined ? text : parseCliArgument(parameter, text);
  });
}

function parse(kind: ArgumentKind, text: string): SyscallArgument {
  if (kind.form === 'string') return text;
  const size = OUT.exec(text)?.[1];
  if (kind.form === 'value') {
    if (kind.type !== 'any') return parseSymbols(text);
    return size === undefined ? parseAny(text) : room(size);
  }
  if (text === 'NULL') return null;
  if (size !== undefined) return room(size);
  const hex = parseHex(text);
  if (hex !== undefined) return hex;
  const isData = kind.type === 'byte' || kind.type === 'chars';
  if (kind.direction === 'in' && isData) return text;
  const json = /^\s*[[{"]/.test(text) ? parseJson(text) : undefined;
  if (json !== undefined) return json;
  const number = parseNumber(text);
  if (number === undefined) throw new PenumbraError('BAD_ARGUMENT', `'${text}' is none of @, @SIZE, NULL, an address, hex:BYTES, JSON`);
  return rawAddress(number);
}

/** A number where it is one, otherwise a string; bytes as hex:. */
function parseAny(text: string): SyscallArgument {
  if (text === 'NULL') return null;
  const hex = parseHex(text);
  if (hex !== undefined) return hex;
  try {
    return parseSymbols(text);
  } catch {
    return text;
  }
}

function room(size: string): SyscallArgument {
  return out(size === '' ? undefined : Number(size));
}

function parseHex(text: string): Buffer | undefined {
  const digits = HEX.exec(text)?.[1];
  return digits === undefined ? undefined : Buffer.from(digits, 'hex');
}

/** Pieces that are to be written to are numbers of bytes. */
function parseJson(text: string): SyscallArgument {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new PenumbraError('BAD_ARGUMENT', `'${text}' is not valid JSON`, { cause });
  }
  return value as SyscallArgument;
}
