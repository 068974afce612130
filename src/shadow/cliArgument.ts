/** Arguments of `penumbra syscall` as the user types them. */
import { PenumbraError } from '../errors.js';
import { type ArgumentKind, kindText, type SyscallParameter } from './argumentKind.js';
import { parseNumber, parseSymbols } from './constants.js';
import { out, rawAddress, type SyscallArgument } from './syscallArgument.js';

const OUT = /^@([0-9]*)$/;
const ADDRESS = /^&(.+)$/;
const HEX = /^hex:((?:[0-9a-f]{2})*)$/i;

/**
 * Reads one argument:
 *
 * - values: decimal, 0x hexadecimal, 0 octal, symbols, and several of them with | (O_RDONLY|O_CLOEXEC);
 * - paths and strings: literally, whatever they contain;
 * - buffers to be read: text literally, `hex:00ff` as bytes, numbers and structures and vectors as JSON;
 * - buffers to be written: `@` for the natural size, `@512` for 512 bytes (in a vector: 512);
 * - pointers other than paths and strings: NULL, or `&0x7ffe1000` for an address of the borrowed task.
 *
 * @throws PenumbraError BAD_ARGUMENT saying what was expected
 */
export function parseCliArgument(parameter: SyscallParameter, text: string): SyscallArgument {
  try {
    return parse(parameter.kind, text);
  } catch (cause) {
    if (!(cause instanceof PenumbraError)) throw cause;
    throw new PenumbraError('BAD_ARGUMENT', `${parameter.name} (${kindText(parameter.kind)}): ${cause.message}`, {
      cause,
    });
  }
}

/**
 * Reads the whole argument list; more arguments than the call has are passed on for `marshal` to refuse.
 * @throws PenumbraError BAD_ARGUMENT
 */
export function parseCliArguments(
  parameters: readonly SyscallParameter[],
  texts: readonly string[],
): SyscallArgument[] {
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
  const pointer = parsePointer(text);
  if (pointer !== undefined) return pointer;
  if (size !== undefined) return room(size);
  const isText = kind.type === 'byte' || kind.type === 'chars';
  if (kind.direction === 'in' && isText) return parseHex(text) ?? text;
  return parseHex(text) ?? withRooms(kind.type, parseJson(text));
}

/** A number where it is one, an address, bytes as hex:, otherwise a string. */
function parseAny(text: string): SyscallArgument {
  const placed = parsePointer(text) ?? parseHex(text);
  if (placed !== undefined) return placed;
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

function parsePointer(text: string): SyscallArgument {
  if (text === 'NULL') return null;
  const address = ADDRESS.exec(text)?.[1];
  if (address === undefined) return undefined;
  const number = parseNumber(address);
  if (number === undefined) throw new PenumbraError('BAD_ARGUMENT', `'${address}' is no address`);
  return rawAddress(number);
}

function parseJson(text: string): unknown {
  const number = parseNumber(text);
  if (number !== undefined) return number;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new PenumbraError('BAD_ARGUMENT', `'${text}' is none of @, @SIZE, NULL, &ADDRESS, hex:BYTES, JSON`, {
      cause,
    });
  }
}

/** In vectors a number stands for so many bytes of room. */
function withRooms(type: string, value: unknown): SyscallArgument {
  const pieces = (list: unknown) =>
    Array.isArray(list) ? list.map((piece: unknown) => (typeof piece === 'number' ? out(piece) : piece)) : list;
  const message = (each: unknown) =>
    typeof each === 'object' && each !== null && 'iov' in each ? { ...each, iov: pieces(each.iov) } : each;
  if (type === 'iovec') return pieces(value) as SyscallArgument;
  if (type === 'msghdr') return message(value) as SyscallArgument;
  if (type === 'mmsghdr' && Array.isArray(value)) return value.map(message);
  return value as SyscallArgument;
}
