import { PenumbraError } from '../errors.js';
import { type MemoryMapping, mappingAt, readMemoryMaps } from '../inspect/memoryMaps.js';
import { type AbsentRange, absenceText } from '../kernel/absentPage.js';
import type { Kernel } from '../kernel/kernel.js';
import type { Guest } from '../schedule/guest.js';
import { parseNumber } from '../shadow/constants.js';
import { escapeBytes } from '../text.js';
import { argumentBytes, printableArgument } from './arguments.js';
import { UsageError } from './command.js';
import { guestCommand, wholeNumber } from './guestCommand.js';
import { hexDump } from './hexDump.js';
import { hex } from './quantity.js';
import { type Column, table } from './table.js';

interface MemArguments {
  action: 'read' | 'search' | 'maps';
  pid: string;
  args?: string[];
  raw: boolean;
  hex: boolean;
  from?: string;
  to?: string;
  limit: string;
}

interface Match {
  address: bigint;
  /** what lies there, beginning with the match */
  bytes: Buffer;
  /** the mapping it is in; undefined for the kernel */
  mapping: MemoryMapping | undefined;
}

type MemAnswer =
  | { action: 'read'; address: bigint; bytes: Buffer; absent: AbsentRange[] }
  | { action: 'search'; matches: Match[] }
  | { action: 'maps'; mappings: MemoryMapping[] };

const LONGEST_READ = 256 << 20;
const HIGHEST_PID = 4_194_304;
const MOST_MATCHES = 1_000_000;
/** Bytes shown of what is found. */
const SHOWN = 48;
const KERNEL = 'kernel';

export const mem = guestCommand<MemArguments, MemAnswer>({
  positionals: {
    action: { choices: ['read', 'search', 'maps'], describe: 'some bytes, where some bytes are, or what is mapped' },
    pid: { type: 'string', describe: `a process of the guest, or '${KERNEL}'` },
    args: {
      type: 'string',
      array: true,
      describe: 'read: ADDRESS LENGTH (of the kernel also SYMBOL[+N]); search: PATTERN',
    },
  },
  options: {
    raw: { type: 'boolean', describe: 'read: the bytes as they are, zeros for what is not there' },
    hex: { type: 'boolean', describe: 'search: PATTERN is hexadecimal' },
    from: { type: 'string', requiresArg: true, describe: 'search: from this address on' },
    to: { type: 'string', requiresArg: true, describe: 'search: up to this address' },
    limit: { type: 'string', default: '1000', requiresArg: true, describe: 'search: matches at most' },
  },
  examples: [
    ['penumbra mem maps 1', 'as /proc/1/maps in the guest'],
    [
      'penumbra mem read 1 0x7ffd3c0e1000 4096 --raw | strings',
      'no code of the guest runs for it, and nothing is swapped in',
    ],
    ['penumbra mem read kernel linux_banner 64', 'through the page tables of the kernel'],
    ["penumbra mem search 812 'BEGIN RSA PRIVATE KEY'", 'in what is in RAM of its own half'],
    ['penumbra mem search kernel --hex 7f454c46 --limit 10', ''],
  ],
  check: (args) => void requestOf(args),
  async ask(guest, args, signal) {
    const request = requestOf(args);
    switch (request.action) {
      case 'read':
        return { action: 'read', ...read(guest, request) };
      case 'search':
        return { action: 'search', matches: await search(guest, request, signal) };
      case 'maps':
        return { action: 'maps', mappings: await readMemoryMaps(guest, request.pid) };
    }
  },
  text(answer, { raw }) {
    switch (answer.action) {
      case 'read':
        return raw ? answer.bytes : dump(answer);
      case 'search':
        return answer.matches.map(matchLine).join('');
      case 'maps':
        return table(COLUMNS, answer.mappings, false);
    }
  },
  json(answer) {
    switch (answer.action) {
      case 'read':
        return {
          address: hex(answer.address),
          size: answer.bytes.length,
          content: answer.bytes,
          absent: answer.absent.map((range) => ({ ...range, address: hex(range.address) })),
        };
      case 'search':
        return answer.matches.map(({ address, bytes, mapping }) => ({
          address: hex(address),
          bytes,
          mapping: mapping?.path,
        }));
      case 'maps':
        return answer.mappings.map(({ start, end, ...rest }) => ({ start: hex(start), end: hex(end), ...rest }));
    }
  },
  problems: (answer) => (answer.action === 'read' ? answer.absent.map(absentRange) : []),
});

type Request =
  | { action: 'read'; pid: number | typeof KERNEL; place: string; length: number }
  | { action: 'search'; pid: number | typeof KERNEL; pattern: Buffer; from?: bigint; to?: bigint; limit: number }
  | { action: 'maps'; pid: number };

/** @throws UsageError */
function requestOf({ action, pid: given, args = [], ...options }: MemArguments): Request {
  const pid = given === KERNEL ? KERNEL : wholeNumber('pid', given, HIGHEST_PID);
  const [first, second, ...more] = args;
  switch (action) {
    case 'read': {
      if (first === undefined || second === undefined || more.length > 0)
        throw new UsageError('read takes ADDRESS LENGTH');
      const length = parseNumber(second) ?? -1n;
      if (length < 1n || length > LONGEST_READ) throw new UsageError(`LENGTH is a number from 1 to ${LONGEST_READ}`);
      if (pid !== KERNEL) addressOf(first);
      return { action, pid, place: first, length: Number(length) };
    }
    case 'search': {
      if (first === undefined || second !== undefined) throw new UsageError('search takes one PATTERN');
      const pattern = options.hex ? hexBytes(first) : argumentBytes(first);
      if (pattern.length === 0) throw new UsageError('an empty PATTERN is everywhere');
      const limit = wholeNumber('limit', options.limit, MOST_MATCHES);
      return {
        ...{ action, pid, pattern, limit },
        ...(options.from === undefined ? {} : { from: addressOf(options.from) }),
        ...(options.to === undefined ? {} : { to: addressOf(options.to) }),
      };
    }
    case 'maps':
      if (pid === KERNEL || first !== undefined)
        throw new UsageError('maps takes the PID of a process, and nothing more');
      return { action, pid };
  }
}

function addressOf(text: string): bigint {
  const address = parseNumber(text);
  if (address !== undefined && address >= 0n && address < 2n ** 64n) return address;
  throw new UsageError(`'${printableArgument(text)}' is no address`);
}

function hexBytes(text: string): Buffer {
  const digits = text.replaceAll(/[\s:]/g, '');
  if (/^([0-9a-f]{2})*$/i.test(digits)) return Buffer.from(digits, 'hex');
  throw new UsageError(`'${printableArgument(text)}' is not hexadecimal`);
}

function read(guest: Guest, { pid, place, length }: Extract<Request, { action: 'read' }>) {
  const address = pid === KERNEL ? placeInKernel(guest.kernel, place) : addressOf(place);
  return { address, ...guest.memory(pid).readPresent(address, length) };
}

/** An address, or a symbol with or without an offset. @throws PenumbraError NO_SYMBOL */
function placeInKernel(kernel: Kernel, text: string): bigint {
  const address = parseNumber(text);
  if (address !== undefined) return addressOf(text);
  const [, symbol = text, offset = '0'] = /^(.+?)\+(\w+)$/.exec(text) ?? [];
  return kernel.requireSymbol(symbol) + (parseNumber(offset) ?? 0n);
}

async function search(
  guest: Guest,
  request: Extract<Request, { action: 'search' }>,
  signal: AbortSignal,
): Promise<Match[]> {
  const { pid, pattern, limit, from, to } = request;
  const memory = guest.memory(pid);
  const range = { ...(from === undefined ? {} : { from }), ...(to === undefined ? {} : { to }) };
  const addresses = await memory.search(pattern, { ...range, limit, signal });
  const mappings = pid === KERNEL || addresses.length === 0 ? [] : await readMemoryMaps(guest, pid);
  return addresses.map((address) => ({
    address,
    bytes: shownAt(memory, address, pattern),
    mapping: mappingAt(mappings, address),
  }));
}

/** The match with what follows it, or the match alone at the end of a mapping. */
function shownAt(memory: ReturnType<Guest['memory']>, address: bigint, pattern: Buffer): Buffer {
  return memory.tryRead(address, Math.max(SHOWN, pattern.length)) ?? pattern;
}

function dump({ address, bytes, absent }: Extract<MemAnswer, { action: 'read' }>): string {
  return hexDump(bytes, address, (from, to) =>
    absent.some((range) => range.address <= from && range.address + range.size >= to),
  );
}

function matchLine({ address, bytes, mapping }: Match): string {
  const name = mapping === undefined ? '' : `${escapeBytes(mapping.path) || '[anonymous]'} `;
  return `${hex(address)} ${name}${escapeBytes(bytes)}\n`;
}

function absentRange({ address, size, ...why }: AbsentRange): PenumbraError {
  const range = `${hex(address)}-${hex(address + size - 1n)}`;
  return new PenumbraError('NOT_MAPPED', `${range} cannot be read: ${absenceText(why)}`, { address });
}

const COLUMNS: Column<MemoryMapping>[] = [
  { title: 'RANGE', text: ({ start, end }) => `${eightDigits(start)}-${eightDigits(end)}` },
  { title: 'MODE', text: ({ permissions }) => permissions },
  { title: 'OFFSET', text: ({ offset }) => eightDigits(offset) },
  { title: 'DEVICE', text: ({ device }) => `${twoDigits(device.major)}:${twoDigits(device.minor)}` },
  { title: 'INODE', text: ({ inode }) => String(inode), align: 'right' },
  { title: 'PATH', text: ({ path }) => escapeBytes(path) },
];

function eightDigits(number: bigint): string {
  return number.toString(16).padStart(8, '0');
}

function twoDigits(number: number): string {
  return number.toString(16).padStart(2, '0');
}
