/** System calls that were run, for people (as strace prints them) and as JSON. */
import { escapeBytes, jsonBigint, jsonBytes, quoteBytes } from '../text.js';
import type { ArgumentKind, SyscallParameter } from './argumentKind.js';
import { typeOf } from './bufferArgument.js';
import { formatSymbols } from './constants.js';
import type { DecodedArgument, DecodedResult } from './decodedResult.js';
import { errnoMessage, errnoName, errnoOfResult } from './errno.js';
import type { Decoded } from './structs/layout.js';

export interface FormatLimits {
  /** bytes of one buffer that are shown */
  bytes: number;
  /** elements of one array that are shown */
  elements: number;
}

const DEFAULT_LIMITS: FormatLimits = { bytes: 4096, elements: 256 };

export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

/** No types of their own, so without symbols. */
const SCATTERED = /^m*(iovec|msghdr)$|^strings$/;

/** `openat(AT_FDCWD, "/etc/passwd", O_RDONLY, 000) = 3`: one line, safe to print. */
export function formatCall(result: DecodedResult, limits: FormatLimits = DEFAULT_LIMITS): string {
  const { name, parameters } = result.definition;
  const args = result.arguments.map((argument, index) =>
    formatArgument(parameters[index] as SyscallParameter, argument, limits),
  );
  return `${name}(${args.join(', ')}) = ${formatReturn(result)}`;
}

/** `-1 ENOENT (No such file or directory)`, a number, or an address. */
export function formatReturn({ definition, value }: DecodedResult): string {
  const errno = errnoOfResult(value);
  if (errno !== undefined) return `-1 ${errnoName(errno)} (${errnoMessage(errno)})`;
  return definition.returns === 'address' ? formatAddress(value) : value.toString();
}

/**
 * The call as a JSON document: `value` is the raw result, `arguments` what was passed, `output` what the kernel wrote;
 * each by argument name, without those that have none.
 */
export function callToJson(result: DecodedResult): { [key: string]: JsonValue } {
  const errno = errnoOfResult(result.value);
  return {
    syscall: result.definition.name,
    number: result.definition.number,
    value: jsonBigint(result.value),
    ...(errno === undefined ? {} : { errno: result.errno as string, message: errnoMessage(errno) }),
    arguments: namedValues(result.arguments, 'given'),
    output: namedValues(result.arguments, 'returned'),
  };
}

/** Decoded values as JSON: bytes as UTF-8 or base64 (`jsonBytes`), large numbers as decimal strings. */
export function decodedToJson(value: Decoded): JsonValue {
  if (typeof value === 'bigint') return jsonBigint(value);
  if (Buffer.isBuffer(value)) return jsonBytes(value);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(decodedToJson);
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) => (member === undefined ? [] : [[key, decodedToJson(member)]])),
  );
}

function namedValues(args: readonly DecodedArgument[], which: 'given' | 'returned'): { [name: string]: JsonValue } {
  return Object.fromEntries(
    args.flatMap((argument) => {
      const value = argument[which];
      return value === undefined ? [] : [[argument.name, decodedToJson(value)]];
    }),
  );
}

function formatArgument(parameter: SyscallParameter, argument: DecodedArgument, limits: FormatLimits): string {
  const { kind } = parameter;
  const { given, returned } = argument;
  if (kind.form === 'value' && returned === undefined) return formatValue(kind, given);
  const symbols = kind.form === 'buffer' && !SCATTERED.test(kind.type) ? typeOf(kind).symbols : {};
  if (returned === undefined) return formatPointer(given, symbols, limits);
  const isChangedNumber = typeof given === typeof returned && typeof returned !== 'object' && given !== returned;
  const text = formatDecoded(returned, symbols, limits);
  return isChangedNumber ? `[${formatDecoded(given as Decoded, symbols, limits)} => ${text}]` : text;
}

function formatValue(kind: Extract<ArgumentKind, { form: 'value' }>, given: Decoded | undefined): string {
  if (typeof given !== 'bigint') return formatPointer(given, {}, DEFAULT_LIMITS);
  switch (kind.type) {
    case 'flags':
    case 'enum':
      return formatSymbols(kind.group ?? '', given);
    case 'dirfd':
      return formatSymbols('at', given);
    case 'signal':
      return formatSymbols('signal', given);
    case 'mode':
      return formatSymbols('mode', given);
    case 'address':
      return given === 0n ? 'NULL' : formatAddress(given);
    default:
      return given.toString();
  }
}

/** Buffers that nobody has filled are shown as their place only. */
function formatPointer(
  given: Decoded | undefined,
  symbols: Readonly<Record<string, string>>,
  limits: FormatLimits,
): string {
  if (given === undefined) return '...';
  if (given === null) return 'NULL';
  return typeof given === 'bigint' ? formatAddress(given) : formatDecoded(given, symbols, limits);
}

function formatDecoded(value: Decoded, symbols: Readonly<Record<string, string>>, limits: FormatLimits): string {
  if (value === null) return 'NULL';
  if (Buffer.isBuffer(value)) return formatBytes(value, limits);
  if (typeof value === 'string') return escapeBytes(value);
  if (typeof value !== 'object') return value.toString();
  if (Array.isArray(value)) return formatArray(value as readonly Decoded[], symbols, limits);
  const members = Object.entries(value).flatMap(([key, member]) => {
    if (member === undefined) return [];
    const group = symbols[key];
    const isNumber = typeof member === 'number' || typeof member === 'bigint';
    return [
      `${key}=${group !== undefined && isNumber ? formatSymbols(group, BigInt(member)) : formatDecoded(member, {}, limits)}`,
    ];
  });
  return `{${members.join(', ')}}`;
}

function formatArray(
  values: readonly Decoded[],
  symbols: Readonly<Record<string, string>>,
  limits: FormatLimits,
): string {
  const shown = values.slice(0, limits.elements).map((value) => formatDecoded(value, symbols, limits));
  if (values.length > shown.length) shown.push(`... ${values.length - shown.length} more`);
  return `[${shown.join(', ')}]`;
}

function formatBytes(bytes: Buffer, limits: FormatLimits): string {
  return bytes.length <= limits.bytes ? quoteBytes(bytes) : `${quoteBytes(bytes.subarray(0, limits.bytes))}...`;
}

function formatAddress(value: bigint): string {
  return `0x${BigInt.asUintN(64, value).toString(16)}`;
}
