import { GuestError, PenumbraError } from '../errors.js';
import { errnoMessage, errnoNumber } from '../shadow/errno.js';
import { escapeBytes } from '../text.js';

/** `penumbra: CODE: what happened (what to do)`: always one line. */
export function failureLine(error: unknown, guest?: string): string {
  const prefix = guest === undefined ? 'penumbra' : `penumbra: ${escapeBytes(guest)}`;
  return `${prefix}: ${codeOf(error)}: ${escapeLine(describe(error))}`;
}

/** The causes and the stack, for --verbose. */
export function failureDetails(error: unknown): string {
  const lines: string[] = [];
  for (let cause = error; cause instanceof Error && lines.length < 100; cause = cause.cause) {
    lines.push(...(cause.stack ?? String(cause)).split('\n').map(escapeLine));
  }
  return lines.join('\n');
}

function codeOf(error: unknown): string {
  if (error instanceof PenumbraError) return error.code;
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === 'string' ? code : 'INTERNAL';
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const number = error instanceof GuestError ? errnoNumber(error.errno) : undefined;
  return number === undefined ? error.message : `${error.message} (${errnoMessage(number)})`;
}

/** Messages quote paths that are escaped already: only what would break the line or the terminal is. */
function escapeLine(text: string): string {
  return text
    .split('\\')
    .map((part) => escapeBytes(part))
    .join('\\');
}
