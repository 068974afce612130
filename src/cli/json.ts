import { GuestError, PenumbraError } from '../errors.js';
import { jsonBytes } from '../text.js';

/**
 * A record as JSON has it: bytes as a string when they are UTF-8, otherwise as { bytes: base64 }; errors with their
 * code. A bigint stays one: `jsonText` writes it as a number where that is exact, otherwise as a string.
 */
export function toJson(value: unknown): unknown {
  if (Buffer.isBuffer(value)) return jsonBytes(value);
  if (value instanceof Error) return describeError(value);
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [key, toJson(member)]));
}

function describeError(error: Error): Record<string, unknown> {
  if (!(error instanceof PenumbraError)) return { code: 'INTERNAL', message: error.message };
  const { code, message, address } = error;
  return {
    code,
    message,
    ...(address === undefined ? {} : { address: `0x${address.toString(16)}` }),
    ...(error instanceof GuestError ? { errno: error.errno, syscall: error.syscall } : {}),
  };
}
