import fc from 'fast-check';
import t from 'tap';
import { decodeUtf8, escapeBytes, jsonBytes, jsonText, quoteBytes, unescapeBytes } from '../src/text.js';

const RUNS = { numRuns: 2000 };
const anyBytes = fc.oneof(
  fc.uint8Array({ maxLength: 64 }).map((bytes) => Buffer.from(bytes)),
  fc.string({ unit: 'binary', maxLength: 64 }).map((text) => Buffer.from(text)),
  fc
    .array(fc.constantFrom(...'\\abtnvfr01234567"\x1b\u009b'), { maxLength: 24 })
    .map((list) => Buffer.from(list.join(''))),
);

t.test('escapeBytes: fixed cases', async (t) => {
  const cases: [Buffer | string, string][] = [
    ['', ''],
    ['plain name', 'plain name'],
    ['Grüße 日本 👍', 'Grüße 日本 👍'],
    ['a\nb\tc\rd\x07\b\v\f', 'a\\nb\\tc\\rd\\a\\b\\v\\f'],
    ['back\\slash', 'back\\\\slash'],
    ['\x1b]0;title\x07', '\\033]0;title\\a'],
    ['\x7f\0', '\\177\\000'],
    ['\u009b31m', '\\302\\23331m'],
    ['\u202egnp.exe', '\\342\\200\\256gnp.exe'],
    ['zero\u200bwidth', 'zero\\342\\200\\213width'],
    ['\ufeffbom', '\\357\\273\\277bom'],
    ['line\u2028separator', 'line\\342\\200\\250separator'],
    [Buffer.of(0xff, 0x41, 0xc3), '\\377A\\303'],
    [Buffer.of(0xed, 0xa0, 0x80), '\\355\\240\\200'],
    [Buffer.of(0xc0, 0xaf), '\\300\\257'],
    [Buffer.of(0xff, 0xc3, 0xa9), '\\377é'],
  ];
  for (const [bytes, text] of cases) t.equal(escapeBytes(bytes), text);
  t.equal(quoteBytes('say "hi"\n'), '"say \\042hi\\042\\n"');
});

t.test('escapeBytes is lossless, one line and printable for all bytes', async (t) => {
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const text = escapeBytes(bytes);
      return !/[\p{C}\p{Zl}\p{Zp}]/u.test(text) && unescapeBytes(text).equals(bytes);
    }),
    RUNS,
  );
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const text = quoteBytes(bytes).slice(1, -1);
      return !text.includes('"') && unescapeBytes(text).equals(bytes);
    }),
    RUNS,
  );
  const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  t.strictSame(unescapeBytes(escapeBytes(all)), all);
});

t.test('escapeBytes is linear', async (t) => {
  const started = performance.now();
  escapeBytes(Buffer.alloc(1 << 20, 0xff));
  escapeBytes(Buffer.alloc(1 << 20, '\x1b'));
  t.ok(performance.now() - started < 5000);
});

t.test('unescapeBytes refuses what escapeBytes never writes', async (t) => {
  for (const text of ['\\', 'a\\x41', '\\9', '\\12', '\\400']) t.throws(() => unescapeBytes(text), SyntaxError);
});

t.test('jsonBytes: a string for valid UTF-8, base64 otherwise, always lossless', async (t) => {
  t.equal(jsonBytes(Buffer.from('name')), 'name');
  t.equal(jsonBytes(Buffer.from('\ufeffbom')), '\ufeffbom');
  t.strictSame(jsonBytes(Buffer.of(0xff, 0x00)), { bytes: '/wA=' });
  fc.assert(
    fc.property(anyBytes, (bytes) => {
      const json = JSON.parse(JSON.stringify(jsonBytes(bytes))) as string | { bytes: string };
      const back = typeof json === 'string' ? Buffer.from(json) : Buffer.from(json.bytes, 'base64');
      return back.equals(bytes) && (typeof json === 'string') === (decodeUtf8(bytes) !== undefined);
    }),
    RUNS,
  );
});

t.test('jsonText: printable, and the same JSON', async (t) => {
  t.equal(
    jsonText({ a: '\u009b1m\u202e\x1b\x7f', b: 1n, c: 2n ** 60n }),
    '{"a":"\\u009b1m\\u202e\\u001b\\u007f","b":1,"c":"1152921504606846976"}',
  );
  t.equal(jsonText([1, 2], 1), '[\n 1,\n 2\n]');
  fc.assert(
    fc.property(fc.jsonValue({ stringUnit: 'binary' }), fc.constantFrom(undefined, 2), (value, indent) => {
      const text = jsonText(value, indent);
      return !/(?!\n)[\p{C}\p{Zl}\p{Zp}]/u.test(text) && JSON.stringify(JSON.parse(text)) === JSON.stringify(value);
    }),
    RUNS,
  );
});
