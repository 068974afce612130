import type { KernelImage } from './image.js';
import type { Span } from './kallsyms.js';

/** kallsyms_token_table: 256 NUL-terminated strings; kallsyms_token_index: where each begins, 16 bits each. */
export interface TokenTables {
  tokenTable: Span;
  tokenIndex: Span;
}

const TOKENS = 256;
const ZERO = 0x30;
/** Characters in use stand for themselves, and digits always are in use: scripts/kallsyms.c, insert_real_symbols_in_table. */
const DIGITS = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1');
const OCCURRENCES = 64;
/** The kernel has one; a few more may be forged. */
const TABLES = 4;
/** 48 tokens before '0', few longer than 20 characters */
const BEFORE_LIMIT = 4096;
const TABLE_LIMIT = 8192;

/** The token tables in the image whose index agrees with them. */
export function* findTokenTables(image: KernelImage): Generator<TokenTables> {
  let found = 0;
  for (const digits of image.find(DIGITS, OCCURRENCES)) {
    const at = Number(digits - image.base);
    const from = Math.max(0, (at - BEFORE_LIMIT) & ~7);
    const to = Math.min(Number(image.end - image.base), at + TABLE_LIMIT);
    const bytes = image.read(image.base + BigInt(from), to - from);
    const tables = tablesAround(bytes, at - from);
    if (tables !== undefined && found++ < TABLES) {
      yield {
        tokenTable: { offset: from + tables.tokenTable.offset, size: tables.tokenTable.size },
        tokenIndex: { offset: from + tables.tokenIndex.offset, size: tables.tokenIndex.size },
      };
    }
  }
}

function tablesAround(bytes: Buffer, digits: number): TokenTables | undefined {
  for (let start = digits & ~3; start >= 0; start -= 4) {
    const offsets = tokenOffsets(bytes, start, digits);
    if (offsets === undefined) continue;
    const end = start + offsets[TOKENS]!;
    // aligned to 8 bytes, to 4 since 7.0
    for (const index of [(end + 7) & ~7, (end + 3) & ~3]) {
      if (indexAgrees(bytes, index, offsets)) {
        return {
          tokenTable: { offset: start, size: end - start },
          tokenIndex: { offset: index, size: 2 * TOKENS },
        };
      }
    }
  }
  return undefined;
}

/** Where each token begins, and the end of the last, when the table starts at `start` and token '0' lies at `digits`. */
function tokenOffsets(bytes: Buffer, start: number, digits: number): number[] | undefined {
  const offsets: number[] = [];
  let at = start;
  for (let token = 0; token < TOKENS; token++) {
    if (token === ZERO && at !== digits) return undefined;
    if (token < ZERO && at >= digits) return undefined;
    offsets.push(at - start);
    const end = bytes.indexOf(0, at);
    if (end < 0) return undefined;
    at = end + 1;
  }
  offsets.push(at - start);
  return offsets;
}

function indexAgrees(bytes: Buffer, index: number, offsets: readonly number[]): boolean {
  if (index + 2 * TOKENS > bytes.length) return false;
  for (let token = 0; token < TOKENS; token++) {
    if (bytes.readUInt16LE(index + 2 * token) !== offsets[token]) return false;
  }
  return true;
}
