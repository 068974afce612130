import { readFileSync } from 'node:fs';
import { PenumbraError } from '../errors.js';

/** Constants of the ABI that code of penumbra and its users name most. All others: profiles/constants.x86_64. */
export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_EMPTY_PATH = 0x1000;
export const AT_NO_AUTOMOUNT = 0x800;
export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_NONBLOCK = 0o4000;
export const O_DIRECTORY = 0o200000;
export const O_NOFOLLOW = 0o400000;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
export const S_IFMT = 0o170000;
export const S_IFREG = 0o100000;
export const S_IFDIR = 0o40000;
export const S_IFLNK = 0o120000;
export const S_IFCHR = 0o20000;
export const S_IFBLK = 0o60000;
export const S_IFIFO = 0o10000;
export const S_IFSOCK = 0o140000;
export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
export const AF_UNSPEC = 0;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const AF_NETLINK = 16;
export const SOCK_STREAM = 1;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_CLOEXEC = 0o2000000;
export const NETLINK_ROUTE = 0;
export const NETLINK_SOCK_DIAG = 4;
export const MSG_DONTWAIT = 0x40;
export const STATX_BASIC_STATS = 0x7ff;
export const STATX_BTIME = 0x800;
export const STATX_MNT_ID = 0x1000;

/** One group of the data file: an enumeration, a set of flags, or both in one word (then `mask` divides them). */
export interface ConstantGroup {
  name: string;
  mask: bigint | undefined;
  enums: ReadonlyMap<bigint, string>;
  /** Widest first, so that O_SYNC is found before the O_DSYNC inside it. */
  flags: readonly { name: string; value: bigint }[];
}

interface ConstantTable {
  groups: ReadonlyMap<string, ConstantGroup>;
  values: ReadonlyMap<string, bigint>;
}

interface GroupDraft {
  mask: bigint | undefined;
  enums: Map<bigint, string>;
  flags: { name: string; value: bigint }[];
}

/** group, kind, NAME (none for a mask), value */
const LINE = /^([a-z_]+) +(enum|flag|mask) +(?:([A-Z_]\w*) +)?(\S+)$/;
const PROFILE = new URL('../../../profiles/constants.x86_64', import.meta.url);
let loaded: ConstantTable | undefined;

/** The groups and symbols of profiles/constants.x86_64, read once, when they are first needed. */
export function constantTable(): ConstantTable {
  loaded ??= parseConstants(readFileSync(PROFILE, 'utf8'));
  return loaded;
}

/** @throws PenumbraError INTERNAL naming the line that is malformed */
export function parseConstants(text: string): ConstantTable {
  const groups = new Map<string, GroupDraft>();
  const values = new Map<string, bigint>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line === '' || line.startsWith('#')) continue;
    const match = LINE.exec(line);
    const value = parseNumber(match?.[4] ?? '');
    if (match === null || value === undefined || (match[2] === 'mask') !== (match[3] === undefined)) {
      throw new PenumbraError('INTERNAL', `profiles/constants.x86_64 line ${index + 1} is malformed`);
    }
    const [, groupName = '', kind, name = ''] = match;
    const group: GroupDraft = groups.get(groupName) ?? { mask: undefined, enums: new Map(), flags: [] };
    groups.set(groupName, group);
    if (kind === 'mask') group.mask = value;
    else values.set(name, value);
    if (kind === 'enum' && !group.enums.has(value)) group.enums.set(value, name);
    if (kind === 'flag') group.flags.push({ name, value });
  }
  const finished = [...groups].map(([name, { mask, enums, flags }]): [string, ConstantGroup] => {
    return [name, { name, mask, enums, flags: flags.sort((a, b) => bitCount(b.value) - bitCount(a.value)) }];
  });
  return { groups: new Map(finished), values };
}

/** Decimal, 0x hexadecimal, 0b binary, and octal as in C (0755) or JavaScript (0o755), with a sign; else undefined. */
export function parseNumber(text: string): bigint | undefined {
  const match = /^([-+]?)(0x[0-9a-f]+|0b[01]+|0o?[0-7]+|0|[1-9][0-9]*)$/i.exec(text);
  if (match === null) return undefined;
  const digits = (match[2] as string).replace(/^0(?=[0-7])/, '0o');
  const magnitude = BigInt(digits);
  return match[1] === '-' ? -magnitude : magnitude;
}

/**
 * The value of `O_RDONLY|O_CLOEXEC`, `0644`, `S_IFREG|0644`.
 * @throws PenumbraError BAD_ARGUMENT naming the part that is neither a number nor a known symbol
 */
export function parseSymbols(text: string): bigint {
  let value = 0n;
  for (const part of text.split('|')) {
    const term = parseNumber(part) ?? constantTable().values.get(part);
    if (term === undefined) {
      const spoken = part === '' ? 'an empty term' : `'${part}'`;
      throw new PenumbraError('BAD_ARGUMENT', `${spoken} is neither a number nor a known symbol`);
    }
    value |= term;
  }
  return value;
}

/**
 * A value in the symbols of a group: 'O_RDWR|O_CLOEXEC', 'AT_FDCWD', 'S_IFREG|0644' ('mode' keeps octal); bits without
 * a name follow in hexadecimal. A group that does not exist gives a plain number.
 */
export function formatSymbols(groupName: string, value: bigint): string {
  const group = constantTable().groups.get(groupName);
  if (group === undefined) return value.toString();
  const exact = group.enums.get(value);
  if (exact !== undefined) return exact;
  if (value < 0n) return value.toString();
  return group.flags.length === 0 ? value.toString() : formatFlags(group, value);
}

function formatFlags(group: ConstantGroup, value: bigint): string {
  const parts: string[] = [];
  let rest = value;
  if (group.mask !== undefined) {
    const name = group.enums.get(value & group.mask);
    if (name !== undefined) {
      parts.push(name);
      rest &= ~group.mask;
    }
  }
  for (const flag of group.flags) {
    if (flag.value !== 0n && (rest & flag.value) === flag.value) {
      parts.push(flag.name);
      rest &= ~flag.value;
    }
  }
  if (group.name === 'mode') parts.push(`0${rest.toString(8).padStart(3, '0')}`);
  else if (rest !== 0n || parts.length === 0) parts.push(rest === 0n ? '0' : `0x${rest.toString(16)}`);
  return parts.join('|');
}

function bitCount(value: bigint): number {
  return value < 0n ? 64 : value.toString(2).replaceAll('0', '').length;
}
