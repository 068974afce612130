/**
 * Stable codes of penumbra's own failures. Scripts may rely on them; a code is never reused for another meaning.
 */
export type ErrorCode =
  | 'BAD_ADDRESS' // outside guest RAM, or not canonical
  | 'BAD_ARGUMENT' // a caller's value is outside what the function accepts
  | 'BUSY' // another penumbra holds this guest
  | 'CORRUPT' // a structure read from the guest contradicts itself
  | 'DEVICE_ACCESS' // the call would need a device of the guest
  | 'ENGINE' // the engine itself failed
  | 'GUEST_BUG' // the guest kernel reported a bug while running the call
  | 'GUEST_ERROR' // the guest kernel answered with an errno
  | 'GUEST_FAULT' // the call took an exception the guest kernel does not handle
  | 'GUEST_GONE' // QEMU ended, or the guest was reset, in the middle
  | 'INTERNAL' // a defect of penumbra
  | 'LOCKED' // the call needs a lock that the guest held when it was stopped
  | 'NO_BTF'
  | 'NO_GUEST' // no guest matches
  | 'NO_KALLSYMS'
  | 'NO_KERNEL' // no Linux kernel found in this target
  | 'NO_MEMBER'
  | 'NO_SYMBOL'
  | 'NO_TOOL' // the host has no such program
  | 'NO_TASK' // the guest has no such process
  | 'NOT_MAPPED' // a guest-virtual address without a present page
  | 'NOT_QEMU'
  | 'PERMISSION'
  | 'QMP' // QEMU refused a command
  | 'QMP_BUSY' // the QMP socket serves another client
  | 'REFUSED' // penumbra does not run this call, with the reason
  | 'STUB' // the gdbstub answered something unexpected
  | 'TIMEOUT'
  | 'UNSUPPORTED'
  | 'WATCHDOG' // the call ran out of its instructions or time
  | 'WOULD_BLOCK'; // the call would sleep

export interface ErrorDetails {
  address?: bigint | undefined;
  cause?: unknown;
}

/** Every failure that penumbra reports. `code` is stable, `address` is the guest address concerned, where there is one. */
export class PenumbraError extends Error {
  readonly code: ErrorCode;
  readonly address?: bigint;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = code;
    if (details.address !== undefined) this.address = details.address;
  }
}

/** The guest kernel's own refusal: an errno where an inspector needed an answer. */
export class GuestError extends PenumbraError {
  readonly errno: string;
  readonly syscall: string;

  constructor(errno: string, syscall: string, subject: string) {
    super('GUEST_ERROR', `${subject}: the guest answers ${errno} to ${syscall}`);
    this.errno = errno;
    this.syscall = syscall;
  }
}
