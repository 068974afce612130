/**
 * What TypeScript hands to the native batch executor, and what it gets back: flat, without names and without kernel
 * knowledge. A step is one syscall; its buffers live in the shadow's scratch memory for the time of the batch.
 */

/** How the executor places one argument. */
export const NativeArgumentKind = {
  /** `value` goes into the register as it is. */
  value: 0,
  /** `bytes` are copied into scratch memory before the call; the register gets their address. */
  in: 1,
  /** `size` zeroed bytes of scratch memory; their contents are returned. */
  out: 2,
  /** `bytes` are copied in before the call, and their contents are returned. */
  inout: 3,
  /** The raw return value of step `step` of the same batch (a negative errno included). */
  result: 4,
} as const;

export type NativeArgumentKind = (typeof NativeArgumentKind)[keyof typeof NativeArgumentKind];

/**
 * A pointer inside a buffer to another place of the same buffer (an iovec's base, a msghdr's name): before the call the
 * executor stores `address of the buffer + target` as 8 little-endian bytes at `offset`. Nested structures are laid out
 * in one buffer, so the executor needs no notion of nesting.
 */
export interface NativeFixup {
  offset: number;
  target: number;
}

/** Buffers start on a 16-byte boundary of scratch memory. */
export interface NativeArgument {
  kind: NativeArgumentKind;
  /** kind 0: -2^63 .. 2^64-1, negative values sign-extended; a number is always a safe integer */
  value?: bigint | number;
  /** kinds 1 and 3 */
  bytes?: Buffer;
  /** kind 2, in bytes */
  size?: number;
  /** kind 4: index into the batch */
  step?: number;
  /** kinds 1 and 3 only */
  fixups?: NativeFixup[];
}

export interface NativeStep {
  nr: number;
  /** at most six, in the order of the syscall's arguments */
  args: NativeArgument[];
}

export interface NativeStepResult {
  /** the call returned only because it would have slept: its value is mostly -EINTR */
  blocked?: boolean;
  /** raw return value, signed: -4095 .. -1 is a negative errno */
  value: bigint;
  /** per argument: the contents after the call for kinds 2 and 3, otherwise undefined */
  out: (Buffer | undefined)[];
}
