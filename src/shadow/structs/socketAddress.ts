/** Socket addresses. Kernel: uapi linux/un.h, in.h, in6.h, netlink.h, if_packet.h. */
import { PenumbraError } from '../../errors.js';
import { AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, AF_UNSPEC } from '../constants.js';
import { type AbiType, beforeNul, requireLength } from './layout.js';

const AF_PACKET = 17;
const FAMILY_SIZE = 2;

/** In all forms `family` is the name after AF_, in lower case; a family without a form of its own keeps its bytes. */
export type SocketAddress =
  | { family: 'unspec' }
  /** A pathname, an abstract name (without its leading NUL), or neither for an unnamed socket. */
  | { family: 'unix'; path?: Buffer; abstract?: Buffer }
  | { family: 'inet'; address: string; port: number }
  | { family: 'inet6'; address: string; port: number; flowinfo: number; scopeId: number }
  | { family: 'netlink'; pid: number; groups: number }
  | { family: 'packet'; protocol: number; ifindex: number; hatype: number; pkttype: number; address: Buffer }
  | { family: number; data: Buffer };

/** @throws PenumbraError CORRUPT when the bytes are fewer than the family needs */
export function decodeSocketAddress(bytes: Buffer): SocketAddress {
  if (bytes.length === 0) return { family: 'unspec' };
  requireLength('sockaddr', bytes, FAMILY_SIZE);
  const family = bytes.readUInt16LE(0);
  switch (family) {
    case AF_UNSPEC:
      return { family: 'unspec' };
    case AF_UNIX:
      return decodeUnix(bytes.subarray(FAMILY_SIZE));
    case AF_INET:
      requireLength('sockaddr_in', bytes, 8);
      return { family: 'inet', address: bytes.subarray(4, 8).join('.'), port: bytes.readUInt16BE(2) };
    case AF_INET6:
      requireLength('sockaddr_in6', bytes, 28);
      return {
        family: 'inet6',
        address: formatIPv6(bytes.subarray(8, 24)),
        port: bytes.readUInt16BE(2),
        flowinfo: bytes.readUInt32BE(4),
        scopeId: bytes.readUInt32LE(24),
      };
    case AF_NETLINK:
      requireLength('sockaddr_nl', bytes, 12);
      return { family: 'netlink', pid: bytes.readUInt32LE(4), groups: bytes.readUInt32LE(8) };
    case AF_PACKET:
      return decodePacket(bytes);
    default:
      return { family, data: Buffer.from(bytes.subarray(FAMILY_SIZE)) };
  }
}

/**
 * The bytes of an address, as long as connect, bind and sendto want them. Names may be strings.
 * @throws PenumbraError BAD_ARGUMENT
 */
export function encodeSocketAddress(value: unknown): Buffer {
  const address = value as Record<string, unknown> | null;
  switch (address?.family) {
    case 'unspec':
      return Buffer.alloc(16);
    case 'unix':
      return encodeUnix(address);
    case 'inet':
      return encodeInternet(address, AF_INET);
    case 'inet6':
      return encodeInternet(address, AF_INET6);
    case 'netlink': {
      const bytes = withFamily(AF_NETLINK, 12);
      bytes.writeUInt32LE(numberOf(address, 'pid', 0xffff_ffff), 4);
      bytes.writeUInt32LE(numberOf(address, 'groups', 0xffff_ffff), 8);
      return bytes;
    }
    default:
      throw new PenumbraError(
        'BAD_ARGUMENT',
        'sockaddr: family is one of unspec, unix, inet, inet6, netlink (others as bytes)',
      );
  }
}

/** The text form of RFC 5952: lower case, the longest run of zero groups shortened. */
export function formatIPv6(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(index * 2).toString(16));
  const text = groups.join(':');
  const runs = [...text.matchAll(/(?<=^|:)0(?::0)+(?=:|$)/g)].sort((a, b) => b[0].length - a[0].length);
  const longest = runs[0];
  if (longest === undefined) return text;
  const before = text.slice(0, longest.index).replace(/:$/, '');
  const after = text.slice(longest.index + longest[0].length).replace(/^:/, '');
  return `${before}::${after}`;
}

/** The four bytes of a dotted IPv4 address, or undefined. */
function parseIPv4(text: string): Buffer | undefined {
  const parts = text.split('.');
  const isValid = parts.length === 4 && parts.every((part) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) < 256);
  return isValid ? Buffer.from(parts.map(Number)) : undefined;
}

/** The 16 bytes of an IPv6 address without a zone, in any form of RFC 4291, or undefined. */
function parseIPv6(text: string): Buffer | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const before = parseGroups(halves[0] as string, halves.length === 1);
  const after = halves[1] === undefined ? Buffer.alloc(0) : parseGroups(halves[1], true);
  if (before === undefined || after === undefined) return undefined;
  const missing = 16 - before.length - after.length;
  if (halves.length === 1 ? missing !== 0 : missing < 2) return undefined;
  return Buffer.concat([before, Buffer.alloc(missing), after]);
}

/** Groups between colons as bytes; the last may be a dotted IPv4 address where these are the address's end. */
function parseGroups(text: string, isEnd: boolean): Buffer | undefined {
  if (text === '') return Buffer.alloc(0);
  const groups = text.split(':');
  const bytes: Buffer[] = [];
  for (const [index, group] of groups.entries()) {
    const isDotted = isEnd && index === groups.length - 1 && group.includes('.');
    const part = isDotted ? parseIPv4(group) : parseGroup(group);
    if (part === undefined) return undefined;
    bytes.push(part);
  }
  return Buffer.concat(bytes);
}

function parseGroup(text: string): Buffer | undefined {
  return /^[0-9a-f]{1,4}$/i.test(text) ? Buffer.from(text.padStart(4, '0'), 'hex') : undefined;
}

function decodeUnix(name: Buffer): SocketAddress {
  if (name.length === 0) return { family: 'unix' };
  if (name[0] === 0) {
    // A buffer longer than the address is all zeros behind it: an unnamed socket, not a name of NULs.
    return name.every((byte) => byte === 0)
      ? { family: 'unix' }
      : { family: 'unix', abstract: Buffer.from(name.subarray(1)) };
  }
  return { family: 'unix', path: beforeNul(name) };
}

function decodePacket(bytes: Buffer): SocketAddress {
  requireLength('sockaddr_ll', bytes, 12);
  const length = bytes.readUInt8(11);
  requireLength('sockaddr_ll', bytes, 12 + length);
  return {
    family: 'packet',
    protocol: bytes.readUInt16BE(2),
    ifindex: bytes.readInt32LE(4),
    hatype: bytes.readUInt16LE(8),
    pkttype: bytes.readUInt8(10),
    address: Buffer.from(bytes.subarray(12, 12 + length)),
  };
}

function encodeUnix(address: Record<string, unknown>): Buffer {
  const name =
    address.abstract === undefined
      ? Buffer.concat([nameOf(address.path ?? ''), Buffer.alloc(address.path === undefined ? 0 : 1)])
      : Buffer.concat([Buffer.alloc(1), nameOf(address.abstract)]);
  return Buffer.concat([withFamily(AF_UNIX, FAMILY_SIZE), name]);
}

function nameOf(value: unknown): Buffer {
  if (typeof value === 'string') return Buffer.from(value);
  if (Buffer.isBuffer(value)) return value;
  throw new PenumbraError('BAD_ARGUMENT', 'sockaddr: a name is a string or a Buffer');
}

function encodeInternet(address: Record<string, unknown>, family: typeof AF_INET | typeof AF_INET6): Buffer {
  const text = String(address.address);
  const host = family === AF_INET ? parseIPv4(text) : parseIPv6(text);
  if (host === undefined) {
    const version = family === AF_INET ? 'IPv4' : 'IPv6';
    throw new PenumbraError('BAD_ARGUMENT', `sockaddr: '${text}' is no ${version} address`);
  }
  const bytes = withFamily(family, family === AF_INET ? 16 : 28);
  bytes.writeUInt16BE(numberOf(address, 'port', 0xffff), 2);
  host.copy(bytes, family === AF_INET ? 4 : 8);
  if (family === AF_INET6) {
    bytes.writeUInt32BE(numberOf(address, 'flowinfo', 0xffff_ffff), 4);
    bytes.writeUInt32LE(numberOf(address, 'scopeId', 0xffff_ffff), 24);
  }
  return bytes;
}

function withFamily(family: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.writeUInt16LE(family, 0);
  return bytes;
}

function numberOf(address: Record<string, unknown>, field: string, maximum: number): number {
  const value = address[field] ?? 0;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= maximum) return value;
  throw new PenumbraError('BAD_ARGUMENT', `sockaddr: ${field} is a number from 0 to ${maximum}`);
}

/** Large enough for struct sockaddr_storage. */
const STORAGE_SIZE = 128;

export const sockaddr: AbiType<SocketAddress> = {
  name: 'sockaddr',
  size: FAMILY_SIZE,
  variable: true,
  naturalSize: STORAGE_SIZE,
  symbols: {},
  decode: decodeSocketAddress,
  encode: encodeSocketAddress,
};
