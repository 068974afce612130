/** Signals, readiness, asynchronous I/O, futexes. Kernel: uapi asm/signal.h, asm-generic/siginfo.h, poll.h, eventpoll.h. */
import { PenumbraError } from '../../errors.js';
import { type AbiType, i32, i64, raw, requireLength, struct, u16, u32, u64 } from './layout.js';

export const pollfd = struct('pollfd', 8, { fd: i32(0), events: u16(4, 'poll'), revents: u16(6, 'poll') });

/** Packed on x86-64. */
export const epollEvent = struct('epoll_event', 12, { events: u32(0, 'epoll'), data: u64(4) });

/** The kernel's own form; `mask` has bit n-1 for signal n. */
const sigaction = struct('sigaction', 32, { handler: u64(0), flags: u64(8), restorer: u64(16), mask: u64(24) });
const stack = struct('stack', 24, { sp: u64(0), flags: i32(8), size: u64(16) });
const sigevent = struct('sigevent', 64, { value: u64(0), signo: i32(8, 'signal'), notify: i32(12), rest: raw(16, 48) });

/** Of the union the members that kill and waitid fill in. */
const siginfo = struct('siginfo', 128, {
  signo: i32(0, 'signal'),
  errno: i32(4),
  code: i32(8),
  pid: i32(16),
  uid: u32(20),
  status: i32(24),
});

const ioEvent = struct('io_event', 32, { data: u64(0), obj: u64(8), res: i64(16), res2: i64(24) });
const futexWaitv = struct('futex_waitv', 24, { val: u64(0), uaddr: u64(8), flags: u32(16) });

/** Numbers of the bits that are set: signals from 1, CPUs from 0. */
function bitSet(name: string, size: number, naturalSize: number, first: number): AbiType<number[]> {
  return {
    name,
    size,
    variable: true,
    naturalSize,
    symbols: {},
    decode(bytes) {
      requireLength(name, bytes, size);
      const members: number[] = [];
      for (const [index, byte] of bytes.entries()) {
        for (let bit = 0; bit < 8; bit++) if ((byte >> bit) & 1) members.push(index * 8 + bit + first);
      }
      return members;
    },
    encode(value) {
      if (!Array.isArray(value)) throw new PenumbraError('BAD_ARGUMENT', `${name}: an array of numbers is expected`);
      const bytes = Buffer.alloc(naturalSize);
      for (const member of value as unknown[]) {
        const bit = Number(member) - first;
        if (!Number.isInteger(bit) || bit < 0 || bit >= naturalSize * 8) {
          throw new PenumbraError(
            'BAD_ARGUMENT',
            `${name}: ${String(member)} is not from ${first} to ${naturalSize * 8 - 1 + first}`,
          );
        }
        bytes[bit >> 3] = (bytes[bit >> 3] as number) | (1 << (bit & 7));
      }
      return bytes;
    },
  };
}

const sigset = bitSet('sigset', 8, 8, 1);
/** 8192 CPUs, the most that Linux on x86-64 can be built for. */
const cpuset = bitSet('cpuset', 1, 1024, 0);

export const eventTypes = [
  pollfd,
  epollEvent,
  sigaction,
  stack,
  sigevent,
  siginfo,
  ioEvent,
  futexWaitv,
  sigset,
  cpuset,
];
