import { type ErrorCode, PenumbraError } from '../errors.js';
import { CallError } from '../shadow/failure.js';
import { printablePath } from './guestPath.js';

const CODES: readonly ErrorCode[] = ['WOULD_BLOCK', 'DEVICE_ACCESS'];

/** Whether a call ended because what it needs is on a device, or with somebody who would have to be waited for. */
export function needsDevice(error: unknown): error is CallError {
  return error instanceof CallError && CODES.includes(error.code);
}

/** The same error, said of a path; any other error as it is. */
export function aboutPath(error: unknown, path: Buffer): unknown {
  if (!needsDevice(error)) return error;
  const message = `${printablePath(path)}: not in the guest's memory (its kernel would have to read a disk, or wait)`;
  return new PenumbraError('DEVICE_ACCESS', message, { cause: error });
}

/** Runs `work`, whose failures are said of `path`. */
export async function naming<Answer>(path: Buffer, work: Promise<Answer>): Promise<Answer> {
  try {
    return await work;
  } catch (error) {
    throw aboutPath(error, path);
  }
}
