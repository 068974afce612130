/**
 * Bytes of a guest as text. Names in a guest are bytes chosen by a hostile party: printed raw they could move the
 * cursor, retitle a terminal or hide a line. What is printed here is always one line of printable characters, and the
 * bytes can be had back from it.
 *
 * Valid UTF-8 of printable characters stays as it is. Everything else becomes a C escape, as in `ls --escape`:
 * \a \b \t \n \v \f \r, three octal digits for any other byte, and \\ for a backslash. Not printable are control and
 * format characters (also the bidirectional overrides and zero-width ones), line and paragraph separators, private use,
 * unassigned code points, and bytes that are not UTF-8. A space stays a space.
 */

const BACKSLASH = 0x5c;
const LETTERS = new Map([
  [0x07, 'a'],
  [0x08, 'b'],
  [0x09, 't'],
  [0x0a, 'n'],
  [0x0b, 'v'],
  [0x0c, 'f'],
  [0x0d, 'r'],
]);
const BYTES = new Map([...LETTERS].map(([byte, letter]) => [letter, byte]));

/** Unicode's general category "other" (Cc, Cf, Cs, Co, Cn) and the two line separators. */
const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}]/u;
/** JSON's own line feeds (of an indent) stay. */
const UNPRINTABLE_IN_JSON = /(?!\n)[\p{C}\p{Zl}\p{Zp}]/gu;
const PLAIN_ASCII = /^[ -[\]-~]*$/;
const MALFORMED_ESCAPE = 'a backslash is followed by none of abtnvfr, a backslash, or three octal digits up to 377';

const strictDecoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Bytes (or a string, taken as UTF-8) as one line that is safe to print. `unescapeBytes` is its inverse. */
export function escapeBytes(bytes: Uint8Array | string): string {
  return escapeWith(bytes, '');
}

/** The same between double quotes, with quotes inside escaped too: for values in the middle of other text. */
export function quoteBytes(bytes: Uint8Array | string): string {
  return `"${escapeWith(bytes, '"')}"`;
}

function escapeWith(bytes: Uint8Array | string, alsoEscaped: string): string {
  const buffer = toBuffer(bytes);
  const text = decodeUtf8(buffer);
  return text === undefined ? escapeInvalid(buffer, alsoEscaped) : escapeText(text, alsoEscaped);
}

/** The bytes which `escapeBytes` printed as `text`. @throws SyntaxError for an escape that it never writes */
export function unescapeBytes(text: string): Buffer {
  const parts: Buffer[] = [];
  let start = 0;
  for (let at = text.indexOf('\\'); at !== -1; at = text.indexOf('\\', start)) {
    parts.push(Buffer.from(text.slice(start, at)));
    const octal = /^[0-3][0-7]{2}/.exec(text.slice(at + 1, at + 4))?.[0];
    if (octal === undefined) {
      const byte = text[at + 1] === '\\' ? BACKSLASH : BYTES.get(text[at + 1] ?? '');
      if (byte === undefined) throw new SyntaxError(MALFORMED_ESCAPE);
      parts.push(Buffer.of(byte));
      start = at + 2;
    } else {
      parts.push(Buffer.of(Number.parseInt(octal, 8)));
      start = at + 4;
    }
  }
  parts.push(Buffer.from(text.slice(start)));
  return Buffer.concat(parts);
}

/** Bytes as JSON gives them: a string when they are valid UTF-8, otherwise `{ bytes: base64 }`. */
export function jsonBytes(bytes: Uint8Array): string | { bytes: string } {
  const buffer = toBuffer(bytes);
  return decodeUtf8(buffer) ?? { bytes: buffer.toString('base64') };
}

/**
 * JSON text that is safe to print and still the same JSON: characters that `escapeBytes` would not print become \uXXXX.
 * A bigint is a number where a JavaScript number holds it exactly, otherwise a decimal string. Buffers are not expected
 * any more: see `jsonBytes`.
 */
export function jsonText(value: unknown, indent?: number): string {
  const text = JSON.stringify(
    value,
    (_key, member: unknown) => (typeof member === 'bigint' ? jsonBigint(member) : member),
    indent,
  );
  return text.replace(UNPRINTABLE_IN_JSON, (character) => {
    let escaped = '';
    for (let unit = 0; unit < character.length; unit++) {
      escaped += `\\u${character.charCodeAt(unit).toString(16).padStart(4, '0')}`;
    }
    return escaped;
  });
}

/** The string that these bytes are in UTF-8, or undefined when they are not valid UTF-8. Keeps a byte order mark. */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return strictDecoder.decode(bytes);
  } catch {
    return undefined;
  }
}

/** A bigint as JSON holds it without loss: a number, or a decimal string beyond 2^53. */
export function jsonBigint(value: bigint): number | string {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value.toString();
}

function toBuffer(bytes: Uint8Array | string): Buffer {
  if (typeof bytes === 'string') return Buffer.from(bytes);
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function escapeText(text: string, alsoEscaped: string): string {
  if (PLAIN_ASCII.test(text) && (alsoEscaped === '' || !text.includes(alsoEscaped))) return text;
  let escaped = '';
  for (const character of text) {
    if (character === '\\') escaped += '\\\\';
    else if (character === alsoEscaped || UNPRINTABLE.test(character)) {
      for (const byte of Buffer.from(character)) escaped += escapeByte(byte);
    } else escaped += character;
  }
  return escaped;
}

/** Valid sequences as text, and every byte outside them as an escape. */
function escapeInvalid(bytes: Buffer, alsoEscaped: string): string {
  let escaped = '';
  let at = 0;
  while (at < bytes.length) {
    const length = sequenceLength(bytes[at] as number);
    const text = length === 0 ? undefined : decodeUtf8(bytes.subarray(at, at + length));
    if (text === undefined) escaped += escapeByte(bytes[at++] as number);
    else {
      escaped += escapeText(text, alsoEscaped);
      at += length;
    }
  }
  return escaped;
}

/** Bytes of the UTF-8 sequence that a byte leads; 0 when it leads none. */
function sequenceLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xc2) return 0;
  if (lead < 0xe0) return 2;
  if (lead < 0xf0) return 3;
  return lead < 0xf5 ? 4 : 0;
}

function escapeByte(byte: number): string {
  return `\\${LETTERS.get(byte) ?? byte.toString(8).padStart(3, '0')}`;
}
