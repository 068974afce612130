import { PenumbraError } from '../errors.js';
import type { SocketAddress } from './structs/socketAddress.js';

/**
 * The most bytes that one argument may occupy in a shadow's scratch memory: 4 MiB. Larger transfers are made in parts,
 * as a program would make them.
 */
export const MAXIMUM_BUFFER = 1024 * 1024;

/** A buffer for the kernel to write to. */
export class Out {
  /** @param size bytes; undefined for the size that is natural for the argument */
  constructor(readonly size?: number) {
    if (size !== undefined && !(Number.isSafeInteger(size) && size >= 0 && size <= MAXIMUM_BUFFER)) {
      throw new PenumbraError('BAD_ARGUMENT', `a buffer has from 0 to ${MAXIMUM_BUFFER} bytes, not ${size}`);
    }
  }
}

/** The return value of an earlier step of the same batch: the fd that openat gave, for read. */
export class ResultOf {
  constructor(readonly step: number) {}
}

/** A user address of the borrowed task, passed as it is. */
export class RawAddress {
  constructor(readonly address: bigint) {}
}

export const out = (size?: number): Out => new Out(size);
export const resultOf = (step: number): ResultOf => new ResultOf(step);
export const rawAddress = (address: bigint): RawAddress => new RawAddress(address);

/** One piece of an iovec: bytes to be read by the kernel (strings as UTF-8), or room to write to. */
export type Piece = Buffer | string | Out;

/** A msghdr. What is left out is NULL; when received, what is left out gets room. */
export interface Message {
  name?: Buffer | SocketAddress | Out | null;
  iov?: readonly Piece[];
  /** control messages as they are in memory */
  control?: Buffer | Out | null;
}

/**
 * What `marshal` accepts for an argument of a system call.
 *
 * | argument            | accepted                                                              |
 * |---------------------|-----------------------------------------------------------------------|
 * | value               | number, bigint, `resultOf(step)`                                      |
 * | path, string        | string (UTF-8), Buffer; the terminating NUL is added                  |
 * | buffer to be read   | Buffer, string (without a NUL), or the structure as an object         |
 * | buffer to be written| `out(size)`; left out (undefined) for the natural size                |
 * | iovec               | array of Buffer, string, `out(size)`                                  |
 * | msghdr, mmsghdr     | `Message`, array of `Message`                                         |
 * | any pointer         | null for NULL, `rawAddress(address)`                                  |
 */
export type SyscallArgument =
  | number
  | bigint
  | string
  | Buffer
  | Out
  | ResultOf
  | RawAddress
  | null
  | undefined
  | readonly unknown[]
  | { readonly [field: string]: unknown }
  | Message;
