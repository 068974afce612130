/** Structures that hold pointers: iovec and msghdr, laid out with what they point to in one buffer. */
import { PenumbraError } from '../errors.js';
import type { NativeFixup } from './nativeCall.js';
import type { Decoded } from './structs/layout.js';
import { decodeSocketAddress, encodeSocketAddress } from './structs/socketAddress.js';
import { MAXIMUM_BUFFER, type Message, Out, type Piece } from './syscallArgument.js';

/** Kernel: UIO_MAXIOV in uapi linux/uio.h; sendmmsg takes as many messages. */
export const MOST_PIECES = 1024;

const IOVEC_SIZE = 16;
const ALIGNMENT = 16;
const MSGHDR_SIZE = 56;
/** struct mmsghdr: a msghdr, then the number of bytes transferred. */
const MMSGHDR_SIZE = 64;

/** struct user_msghdr on x86-64 (kernel: linux/socket.h). */
const MSGHDR = {
  name: 0,
  nameLength: 8,
  iov: 16,
  iovLength: 24,
  control: 32,
  controlLength: 40,
  flags: 48,
  transferred: 56,
};

const NATURAL_PIECE = 8192;
const NATURAL_NAME = 128;
const NATURAL_CONTROL = 256;

export interface ScatteredBuffer {
  bytes: Buffer;
  fixups: NativeFixup[];
  /** Elements of the outer array: the value of the argument that counts them. */
  count: number;
  /** @param after the buffer after the call @param returned the call's return value, or infinity for all there is room for */
  decode(after: Buffer, returned: number): Decoded;
}

interface Place {
  at: number;
  size: number;
}

/** One buffer into which structures and what they point to are put one after another. */
class Arena {
  readonly fixups: NativeFixup[] = [];
  readonly #chunks: Buffer[] = [];
  #size = 0;

  /** @throws PenumbraError BAD_ARGUMENT when the whole becomes larger than MAXIMUM_BUFFER */
  place(bytes: Buffer): Place {
    const padding = (ALIGNMENT - (this.#size % ALIGNMENT)) % ALIGNMENT;
    const at = this.#size + padding;
    this.#size = at + bytes.length;
    if (this.#size > MAXIMUM_BUFFER)
      throw new PenumbraError('BAD_ARGUMENT', `the pieces are together larger than ${MAXIMUM_BUFFER} bytes`);
    this.#chunks.push(Buffer.alloc(padding), bytes);
    return { at, size: bytes.length };
  }

  /** Makes the pointer at `offset` refer to a place. */
  point(offset: number, { at }: Place): void {
    this.fixups.push({ offset, target: at });
  }

  bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

/** @throws PenumbraError BAD_ARGUMENT */
export function scatterPieces(pieces: readonly Piece[]): ScatteredBuffer {
  const arena = new Arena();
  const { places } = placeVector(arena, pieces);
  return {
    bytes: arena.bytes(),
    fixups: arena.fixups,
    count: pieces.length,
    decode: (after, returned) => gather(after, places, returned),
  };
}

/** A single msghdr. @param receives whether parts that are left out get room @throws PenumbraError BAD_ARGUMENT */
export function scatterMessage(message: Message, receives: boolean): ScatteredBuffer {
  const arena = new Arena();
  const header = Buffer.alloc(MSGHDR_SIZE);
  const places = placeMessage(arena, arena.place(header), header, 0, message, receives);
  return {
    bytes: arena.bytes(),
    fixups: arena.fixups,
    count: 1,
    decode: (after, returned) => decodeMessage(after, 0, places, returned),
  };
}

/** An array of mmsghdr, which recvmmsg and sendmmsg fill in as far as they return. @throws PenumbraError BAD_ARGUMENT */
export function scatterMessages(messages: readonly Message[], receives: boolean): ScatteredBuffer {
  requireCount(messages.length);
  const arena = new Arena();
  const headers = Buffer.alloc(MMSGHDR_SIZE * messages.length);
  const headerPlace = arena.place(headers);
  const places = messages.map((message, index) =>
    placeMessage(arena, headerPlace, headers, index * MMSGHDR_SIZE, message, receives),
  );
  return {
    bytes: arena.bytes(),
    fixups: arena.fixups,
    count: messages.length,
    decode: (after, returned) =>
      places.slice(0, Math.max(0, returned)).map((place, index) => {
        const at = index * MMSGHDR_SIZE;
        const transferred = after.readUInt32LE(at + MSGHDR.transferred);
        return decodeMessage(after, at, place, returned === Number.POSITIVE_INFINITY ? returned : transferred);
      }),
  };
}

function placeVector(arena: Arena, pieces: readonly Piece[]): { vector: Place; places: Place[] } {
  requireCount(pieces.length);
  const array = Buffer.alloc(IOVEC_SIZE * pieces.length);
  const vector = arena.place(array);
  const places = pieces.map((piece, index) => {
    const place = arena.place(pieceBytes(piece));
    arena.point(vector.at + index * IOVEC_SIZE, place);
    array.writeBigUInt64LE(BigInt(place.size), index * IOVEC_SIZE + 8);
    return place;
  });
  return { vector, places };
}

interface MessagePlaces {
  name: Place | undefined;
  pieces: Place[];
  control: Place | undefined;
}

function placeMessage(
  arena: Arena,
  headers: Place,
  header: Buffer,
  offset: number,
  message: Message,
  receives: boolean,
): MessagePlaces {
  const room = (size: number): Out | null => (receives ? new Out(size) : null);
  const nameBytes = optionalBytes(message.name === undefined ? room(NATURAL_NAME) : encodeName(message.name));
  const controlBytes = optionalBytes(message.control === undefined ? room(NATURAL_CONTROL) : message.control);
  const { vector, places } = placeVector(arena, message.iov ?? (receives ? [new Out(NATURAL_PIECE)] : []));
  const name = nameBytes && arena.place(nameBytes);
  const control = controlBytes && arena.place(controlBytes);
  const at = headers.at + offset;
  if (name !== undefined) arena.point(at + MSGHDR.name, name);
  arena.point(at + MSGHDR.iov, vector);
  if (control !== undefined) arena.point(at + MSGHDR.control, control);
  header.writeInt32LE(name?.size ?? 0, offset + MSGHDR.nameLength);
  header.writeBigUInt64LE(BigInt(places.length), offset + MSGHDR.iovLength);
  header.writeBigUInt64LE(BigInt(control?.size ?? 0), offset + MSGHDR.controlLength);
  return { name, pieces: places, control };
}

function decodeMessage(after: Buffer, at: number, places: MessagePlaces, transferred: number): Decoded {
  const nameLength = after.readInt32LE(at + MSGHDR.nameLength);
  const controlLength = after.readBigUInt64LE(at + MSGHDR.controlLength);
  return {
    name: places.name === undefined ? null : (decodeSocketAddress(cut(after, places.name, nameLength)) as Decoded),
    iov: gather(after, places.pieces, transferred),
    control: places.control === undefined ? null : cut(after, places.control, Number(controlLength)),
    flags: after.readUInt32LE(at + MSGHDR.flags),
  };
}

/** The first `length` bytes of a place, which the guest may claim to be longer than it is. */
function cut(after: Buffer, { at, size }: Place, length: number): Buffer {
  return Buffer.from(after.subarray(at, at + Math.max(0, Math.min(size, length))));
}

/** The pieces as far as `transferred` bytes fill them. */
function gather(after: Buffer, places: readonly Place[], transferred: number): Buffer[] {
  const pieces: Buffer[] = [];
  let left = Math.max(0, transferred);
  for (const place of places) {
    if (left === 0) break;
    pieces.push(cut(after, place, left));
    left -= Math.min(left, place.size);
  }
  return pieces;
}

function pieceBytes(piece: unknown): Buffer {
  if (piece instanceof Out) return Buffer.alloc(piece.size ?? NATURAL_PIECE);
  if (typeof piece === 'string') return Buffer.from(piece);
  if (Buffer.isBuffer(piece)) return piece;
  throw new PenumbraError('BAD_ARGUMENT', 'a piece of a vector is a Buffer, a string or out(size)');
}

function encodeName(name: Message['name']): Buffer | Out | null {
  return name === null || name === undefined || Buffer.isBuffer(name) || name instanceof Out
    ? (name ?? null)
    : encodeSocketAddress(name);
}

function optionalBytes(part: Buffer | Out | null): Buffer | undefined {
  return part === null ? undefined : pieceBytes(part);
}

function requireCount(count: number): void {
  if (count > MOST_PIECES)
    throw new PenumbraError('BAD_ARGUMENT', `${count} elements, the kernel takes up to ${MOST_PIECES}`);
}
