import type { Answers, Description, Digests } from './description.js';
import type { Kallsyms, Span } from './kallsyms.js';
import type { AddressSpan, Encoding } from './kallsymsAddresses.js';
import type { Parameter } from './kernel.js';

/** The description in a parsed cache file, undefined when anything about it has another shape. */
export function parseDescription(json: unknown): Description | undefined {
  if (!isRecord(json)) return undefined;
  const { kallsyms, btf, digests, answers } = json;
  if (!isKallsyms(kallsyms) || !(btf === null || isSpan(btf)) || !isDigests(digests) || !isAnswers(answers)) {
    return undefined;
  }
  return { kallsyms, btf, digests, answers };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;
}

function isSpan(value: unknown): value is Span {
  return isRecord(value) && isCount(value['offset']) && isCount(value['size']);
}

function isDigests(value: unknown): value is Digests {
  const isDigest = (digest: unknown) => typeof digest === 'string' && /^[0-9a-f]{64}$/.test(digest);
  return isRecord(value) && isDigest(value['kallsyms']) && (value['btf'] === null || isDigest(value['btf']));
}

const ENCODINGS: readonly Encoding[] = ['place', 'base', 'basePercpu', 'absolute'];

function isAddressSpan(value: unknown): value is AddressSpan {
  if (!isSpan(value)) return false;
  const { encoding, relativeBase } = value as Partial<AddressSpan>;
  return ENCODINGS.some((e) => e === encoding) && (relativeBase === undefined || isCount(relativeBase));
}

function isKallsyms(value: unknown): value is Kallsyms {
  if (!isRecord(value) || !isCount(value['count']) || !isAddressSpan(value['addresses'])) return false;
  return ['names', 'markers', 'tokenTable', 'tokenIndex'].every((name) => isSpan(value[name]));
}

const ANSWERS: Record<keyof Answers, (answer: unknown) => boolean> = {
  symbols: Number.isFinite,
  offsets: Number.isSafeInteger,
  sizes: Number.isSafeInteger,
  members: (a) => Array.isArray(a) && a.length === 2 && a.every(Number.isSafeInteger),
  enumerators: (a) => typeof a === 'string' && /^-?\d{1,20}$/.test(a),
  parameters: (a) => Array.isArray(a) && a.every(isParameter),
};

function isParameter(value: unknown): value is Parameter {
  if (!isRecord(value) || typeof value['name'] !== 'string' || !isCount(value['size'])) return false;
  return ['pointer', 'integer', 'float', 'aggregate'].includes(value['kind'] as string);
}

function isAnswers(value: unknown): value is Answers {
  if (!isRecord(value)) return false;
  return Object.entries(ANSWERS).every(([question, isAnswer]) => {
    const given = value[question];
    return isRecord(given) && Object.values(given).every((answer) => answer === null || isAnswer(answer));
  });
}
