import fc from 'fast-check';
import t, { type Test } from 'tap';
import { PenumbraError } from '../src/errors.js';
import { parseCliArguments } from '../src/shadow/cliArgument.js';
import * as constants from '../src/shadow/constants.js';
import { outputOf } from '../src/shadow/decodedResult.js';
import { errnoMessage, errnoName, errnoNumber, errnoOfResult } from '../src/shadow/errno.js';
import { callToJson, formatCall } from '../src/shadow/formatCall.js';
import { marshal } from '../src/shadow/marshal.js';
import type { NativeArgument, NativeStepResult } from '../src/shadow/nativeCall.js';
import { MAXIMUM_BUFFER, out, rawAddress, resultOf, type SyscallArgument } from '../src/shadow/syscallArgument.js';
import { syscallTable } from '../src/shadow/syscallTable.js';

const table = syscallTable();

const call = (name: string, ...args: SyscallArgument[]) => marshal(table, name, args);
const fails = (t: Test, work: () => unknown, code: string, message: string) => {
  t.throws(work, { code, message } as unknown as Error);
};

/** A stand-in for the executor: the buffers come back as they went in, after `write` has changed them. */
function answer(
  args: NativeArgument[],
  value: bigint,
  write: (buffers: Buffer[]) => void = () => {},
): NativeStepResult {
  const buffers = args.map(({ bytes, size }) => (bytes === undefined ? Buffer.alloc(size ?? 0) : Buffer.from(bytes)));
  write(buffers);
  return { value, out: args.map(({ kind }, index) => (kind === 2 || kind === 3 ? buffers[index] : undefined)) };
}

function run(name: string, args: SyscallArgument[], value: bigint, write?: (buffers: Buffer[]) => void) {
  const { step, decode } = call(name, ...args);
  return decode(answer(step.args, value, write));
}

t.test('values, strings and defaults', async (t) => {
  const { step } = call('openat', constants.AT_FDCWD, '/etc/passwd');
  t.strictSame(step, {
    nr: 257,
    args: [
      { kind: 0, value: -100n },
      { kind: 1, bytes: Buffer.from('/etc/passwd\0') },
      { kind: 0, value: 0n },
      { kind: 0, value: 0n },
    ],
  });
  t.strictSame(call('mkdir', Buffer.from('a\0b')).step.args, [
    { kind: 1, bytes: Buffer.from('a\0b\0') },
    { kind: 0, value: 0o777n },
  ]);
  t.equal(
    call('open', 'x'.repeat(5000)).step.args[0]?.bytes?.length,
    5001,
    'a path too long is for the guest to refuse',
  );
  t.strictSame(call('close', resultOf(0)).step.args, [{ kind: 4, step: 0 }]);
  t.strictSame(call('chdir', null).step.args, [{ kind: 0, value: 0 }]);
  t.strictSame(call('chdir', rawAddress(0x7000n)).step.args, [{ kind: 0, value: 0x7000n }]);
  t.strictSame(call('getpid').step, { nr: 39, args: [] });
  t.equal(marshal(table, 39, []).definition.name, 'getpid');
});

t.test('buffers and their lengths follow from each other', async (t) => {
  const args = (name: string, ...given: SyscallArgument[]) =>
    call(name, ...given).step.args.map(({ kind, value, bytes, size }) =>
      kind === 0 ? Number(value) : `${kind}:${bytes?.length ?? size}`,
    );
  t.strictSame(args('read', 3), [3, '2:4096', 4096]);
  t.strictSame(args('read', 3, out(10)), [3, '2:10', 10]);
  t.strictSame(args('read', 3, undefined, 10), [3, '2:10', 10]);
  t.strictSame(args('read', 3, out(10), 100), [3, '2:100', 100], 'never less room than the kernel may fill');
  t.strictSame(args('read', 3, out(100), 10), [3, '2:100', 10]);
  t.strictSame(args('read', 3, null, 10), [3, 0, 10]);
  t.strictSame(args('write', 1, 'hello'), [1, '1:5', 5]);
  t.strictSame(args('write', 1, Buffer.from('hello'), 3), [1, '1:5', 3]);
  t.strictSame(args('newfstatat', -100, '/'), [-100, '1:2', '2:144', 0]);
  t.strictSame(args('newfstatat', -100, '/', out(1)), [-100, '1:2', '2:144', 0]);
  t.strictSame(args('pipe', out(1)), ['2:8']);
  t.strictSame(args('getdents64', 3), [3, '2:32768', 32768]);
  t.strictSame(args('epoll_wait', 3), [3, '2:4092', 341, 0]);
  t.strictSame(args('mincore', 0x1000, 8193), [0x1000, 8193, '2:3']);
  t.strictSame(args('poll', [{ fd: 1, events: 1 }]), ['3:8', 1, 0]);
  t.strictSame(args('select', undefined, [5n]), [64, '3:8', 0, 0, 0]);
  t.strictSame(args('getsockname', 3), [3, '2:128', '3:4']);
  t.strictSame(args('getsockname', 3, undefined, 2), [3, '2:2', '3:4']);
  t.strictSame(args('getsockopt', 3, 1, 2, out(4)), [3, 1, 2, '2:4', '3:4']);
  t.strictSame(args('msgrcv', 1, out(108)), [1, '2:108', 100, 0, 0]);
  t.strictSame(args('rt_sigprocmask', 0, [1, 2]), [0, '1:8', '2:8', 8]);
  t.strictSame(args('rt_sigprocmask', 0), [0, 0, '2:8', 8]);
  t.strictSame(args('sched_getaffinity', 0), [0, 1024, '2:1024']);
  t.strictSame(args('sched_getattr', 0, undefined, 48), [0, '2:48', 48, 0]);
  t.strictSame(args('capget'), ['3:8', '2:24']);
  t.strictSame(args('name_to_handle_at', -100, '/'), [-100, '1:2', '3:136', '2:8', 0]);
  t.strictSame(args('ioctl', 1, 0x5413, out(8)), [1, 0x5413, '2:8']);
  t.strictSame(args('ioctl', 1, 0x5413, Buffer.alloc(8)), [1, 0x5413, '3:8']);
  t.strictSame(args('fcntl', 1, 3), [1, 3, 0]);
  t.strictSame(args('sendfile', 1, 2, 5n, 10), [1, 2, '3:8', 10]);
  t.strictSame(args('utimensat', -100, 'f', [{ sec: 1 }, { sec: 2, nsec: 3 }]), [-100, '1:2', '1:32', 0]);
});

t.test('what does not fit is refused with the argument named', async (t) => {
  const refuses = (message: string, name: string, ...args: SyscallArgument[]) =>
    fails(t, () => call(name, ...args), 'BAD_ARGUMENT', message);
  const pointer = '(null for NULL, rawAddress(n) for an address of the task)';
  refuses('openat, argument 2 (filename: path): is missing', 'openat', 3);
  refuses('chdir takes 1 arguments (filename), 2 are given', 'chdir', 'a', 'b');
  refuses('getpid takes no arguments, 1 are given', 'getpid', 1);
  refuses('close, argument 1 (fd: fd): a number or a bigint is expected', 'close', '3');
  refuses('close, argument 1 (fd: fd): 1.5 is no integer that a number holds exactly', 'close', 1.5);
  refuses('close, argument 1 (fd: fd): 18446744073709551616 does not fit 64 bits', 'close', 2n ** 64n);
  refuses(`chdir, argument 1 (filename: path): a string or a Buffer is expected ${pointer}`, 'chdir', 5);
  refuses(`read, argument 2 (buf: fill:byte): out(size) is expected ${pointer}`, 'read', 3, 100);
  refuses('write, argument 2 (buf: in:byte): count says 9 bytes, 5 are given', 'write', 1, 'hello', 9);
  refuses(
    'read, argument 2 (buf: fill:byte): a length of -1: a buffer has from 0 to 1048576 bytes',
    'read',
    3,
    out(1),
    -1,
  );
  refuses('readv, argument 2 (vec: fill:iovec): vlen says 3 elements, 1 are given', 'readv', 3, [out(1)], 3);
  refuses(
    'nanosleep, argument 1 (rqtp: in:timespec): timespec has 16 bytes, 3 are given',
    'nanosleep',
    Buffer.alloc(3),
  );
  refuses("nanosleep, argument 1 (rqtp: in:timespec): struct timespec has no field 'ms': sec, nsec", 'nanosleep', {
    ms: 1,
  });
  fails(t, () => out(MAXIMUM_BUFFER + 1), 'BAD_ARGUMENT', 'a buffer has from 0 to 1048576 bytes, not 1048577');
});

t.test('vectors and messages are laid out in one buffer', async (t) => {
  const { step, decode } = call('readv', 3, [out(4), out(100)]);
  const [, vector, count] = step.args;
  t.equal(count?.value, 2n);
  t.equal(vector?.kind, 3);
  t.strictSame(
    vector?.fixups?.map(({ offset }) => offset),
    [0, 16],
  );
  const result = decode(
    answer(step.args, 6n, (buffers) => {
      for (const [index, { target }] of (vector?.fixups ?? []).entries())
        buffers[1]?.write(['abcd', 'efgh'][index] ?? '', target);
    }),
  );
  t.strictSame(outputOf(result, 'vec'), [Buffer.from('abcd'), Buffer.from('ef')]);

  const sent = call('sendmsg', 3, { name: { family: 'netlink', pid: 0, groups: 0 }, iov: ['request'] }).step.args[1];
  t.equal(sent?.kind, 1);
  t.equal(sent?.bytes?.readInt32LE(8), 12, 'namelen');
  t.equal(sent?.bytes?.readBigUInt64LE(24), 1n, 'iovlen');
  t.equal(sent?.bytes?.includes('request'), true);

  const received = call('recvmsg', 3);
  const hostile = received.decode(
    answer(received.step.args, 1_000_000n, (buffers) => {
      buffers[1]?.writeInt32LE(0x7fffffff, 8);
      buffers[1]?.writeBigUInt64LE(2n ** 63n, 40);
    }),
  );
  const message = outputOf(hostile, 'msg') as { iov: Buffer[]; control: Buffer };
  t.equal(message.iov[0]?.length, 8192, 'lengths that the guest claims are cut to the room there is');
  t.equal(message.control.length, 256);
  fails(
    t,
    () => call('writev', 1, Array(1025).fill('x')),
    'BAD_ARGUMENT',
    'writev, argument 2 (vec: in:iovec): 1025 elements, the kernel takes up to 1024',
  );
});

t.test('results are decoded as far as the kernel says it wrote', async (t) => {
  const read = run('read', [3, out(10)], 4n, (buffers) => void buffers[1]?.write('passwd'));
  t.strictSame(outputOf(read, 'buf'), Buffer.from('pass'));
  t.strictSame(outputOf(run('read', [3, out(10)], 1000n), 'buf'), Buffer.alloc(10), 'never beyond the buffer');
  const failed = run('read', [3], -9n);
  t.equal(failed.errno, 'EBADF');
  t.equal(outputOf(failed, 'buf'), undefined);
  t.equal(run('mmap', [0, 4096, 3, 34], -4096n).errno, undefined, 'an address, not an error');
  t.strictSame(
    outputOf(
      run('getcwd', [], 5n, (buffers) => void buffers[0]?.write('/tmp\0')),
      'buf',
    ),
    Buffer.from('/tmp'),
  );
  const name = run('getsockname', [3], 0n, (buffers) => {
    buffers[1]?.write('\x01\0/run/s\0', 'latin1');
    buffers[2]?.writeInt32LE(9, 0);
  });
  t.strictSame(outputOf(name, 'usockaddr'), { family: 'unix', path: Buffer.from('/run/s') });
  t.equal(outputOf(name, 'usockaddr_len'), 9);
  const groups = run('getgroups', [], 2n, (buffers) => void buffers[1]?.writeUInt32LE(27, 4));
  t.strictSame(outputOf(groups, 'grouplist'), [0, 27]);
  t.throws(() => run('getdents64', [3], 24n, (buffers) => void buffers[1]?.writeUInt16LE(5, 16)), { code: 'CORRUPT' });
});

t.test('calls are shown as strace shows them, and as JSON', async (t) => {
  t.equal(
    formatCall(run('openat', [-100, '/etc/\x1bpasswd', 0o2000000], 3n)),
    'openat(AT_FDCWD, "/etc/\\033passwd", O_RDONLY|O_CLOEXEC, 0000) = 3',
  );
  t.equal(formatCall(run('chdir', ['nowhere'], -2n)), 'chdir("nowhere") = -1 ENOENT (No such file or directory)');
  t.equal(formatCall(run('brk', [], 0x5500n)), 'brk(NULL) = 0x5500');
  t.equal(formatCall(run('read', [3], -11n)), 'read(3, ..., 4096) = -1 EAGAIN (Resource temporarily unavailable)');
  t.equal(
    formatCall(run('sendfile', [1, 2, 5n, 10], 10n, (buffers) => void buffers[2]?.writeUInt8(15, 0))),
    'sendfile(1, 2, [5 => 15], 10) = 10',
  );
  t.equal(formatCall(run('nanosleep', [{ sec: 1 }, null], 0n)), 'nanosleep({sec=1, nsec=0}, NULL) = 0');
  const stat = run('newfstatat', [-100, '/'], 0n, (buffers) => void buffers[2]?.writeUInt32LE(0o40755, 24));
  t.match(
    formatCall(stat),
    /^newfstatat\(AT_FDCWD, "\/", \{dev=0, ino=0, nlink=0, mode=S_IFDIR\|0755, uid=0, .*\}, 0\) = 0$/,
  );
  t.match(callToJson(stat), {
    syscall: 'newfstatat',
    value: 0,
    arguments: { filename: '/' },
    output: { statbuf: { mode: 0o40755 } },
  });
  const bytes = run('readlink', ['l'], 2n, (buffers) => void buffers[1]?.writeUInt16LE(0xfffe, 0));
  t.strictSame(callToJson(bytes).output, { buf: { bytes: '/v8=' } });
  t.match(callToJson(run('chdir', ['x'], -2n)), {
    value: -2,
    errno: 'ENOENT',
    message: 'No such file or directory',
    output: {},
  });
  t.equal(formatCall(run('read', [3, out(4)], 4n), { bytes: 2, elements: 1 }), 'read(3, "\\000\\000"..., 4) = 4');
});

t.test('arguments from the command line', async (t) => {
  const parsed = (name: string, ...texts: string[]) => parseCliArguments(table.get(name).parameters, texts);
  t.strictSame(parsed('openat', 'AT_FDCWD', 'O_RDONLY', 'O_RDWR|O_CREAT', '0644'), [-100n, 'O_RDONLY', 0o102n, 0o644n]);
  t.strictSame(parsed('read', '0x3', '@16', '0b101'), [3n, out(16), 5n]);
  t.strictSame(parsed('read', '-1', '@'), [-1n, out()]);
  t.strictSame(parsed('write', '1', 'hex:00ff'), [1n, Buffer.of(0, 255)]);
  t.strictSame(parsed('write', '1', 'text'), [1n, 'text']);
  t.strictSame(parsed('nanosleep', '{"sec":1}', 'NULL'), [{ sec: 1 }, null]);
  t.strictSame(parsed('newfstatat', '3', '', '&0x1000'), [3n, '', rawAddress(0x1000n)]);
  t.strictSame(parsed('readv', '3', '[4,8]'), [3n, [out(4), out(8)]]);
  t.strictSame(parsed('sendfile', '1', '2', '100'), [1n, 2n, 100n]);
  t.strictSame(parsed('ioctl', '0', 'TIOCGWINSZ', '@8'), [0n, 0x5413n, out(8)]);
  t.strictSame(parsed('prctl', 'PR_SET_NAME', 'name'), [15n, 'name']);
  fails(
    t,
    () => parsed('openat', 'AT_CWD'),
    'BAD_ARGUMENT',
    "dfd (dirfd): 'AT_CWD' is neither a number nor a known symbol",
  );
  fails(
    t,
    () => parsed('open', 'x', 'O_RDWR|'),
    'BAD_ARGUMENT',
    'flags (flags(open)): an empty term is neither a number nor a known symbol',
  );
  fails(
    t,
    () => parsed('fstat', '0', 'x'),
    'BAD_ARGUMENT',
    "statbuf (out:stat): 'x' is none of @, @SIZE, NULL, &ADDRESS, hex:BYTES, JSON",
  );
  for (const bad of ['08', '0x', '1e3', ' 1', '1_0', '']) t.equal(constants.parseNumber(bad), undefined, bad);
});

t.test('constants in code are those of the profile', async (t) => {
  const { values, groups } = constants.constantTable();
  for (const [name, value] of Object.entries(constants)) {
    if (typeof value === 'number' && values.has(name)) t.equal(BigInt(value), values.get(name), name);
  }
  t.equal(constants.formatSymbols('open', 0o4010000n), 'O_RDONLY|O_SYNC');
  t.equal(constants.formatSymbols('open', 0x80000001n), 'O_WRONLY|0x80000000');
  t.equal(constants.formatSymbols('mode', 0o104755n), 'S_IFREG|S_ISUID|0755');
  t.equal(constants.formatSymbols('at', 0n), '0');
  t.equal(constants.formatSymbols('seek', 77n), '77');
  fc.assert(
    fc.property(fc.constantFrom(...groups.keys()), fc.bigInt(0n, 2n ** 32n - 1n), (group, value) => {
      return constants.parseSymbols(constants.formatSymbols(group, value)) === value;
    }),
  );
});

t.test('error numbers', async (t) => {
  t.equal(errnoName(2), 'ENOENT');
  t.equal(errnoName(133), 'EHWPOISON');
  t.equal(errnoName(512), 'ERESTARTSYS');
  t.equal(errnoName(41), 'E41');
  t.equal(errnoMessage(36), 'File name too long');
  t.equal(errnoNumber('EWOULDBLOCK'), 11);
  t.equal(errnoNumber('ENONSENSE'), undefined);
  t.equal(errnoOfResult(-4095n), 4095);
  t.equal(errnoOfResult(-4096n), undefined);
  t.equal(errnoOfResult(2n ** 64n - 2n), 2);
});

t.test('whatever is passed, marshal gives a sound step or a precise error', async (t) => {
  const names = [...table.all()].map(({ name }) => name);
  const argument: fc.Arbitrary<SyscallArgument> = fc.oneof(
    fc.constantFrom(undefined, null),
    fc.integer(),
    fc.double(),
    fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }),
    fc.string(),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    fc.nat(5000).map((size) => out(size)),
    fc.array(fc.oneof(fc.string(), fc.nat(100).map(out), fc.anything()), { maxLength: 5 }),
    fc.record({ iov: fc.array(fc.string()), name: fc.anything() as fc.Arbitrary<null> }),
    fc.object(),
  );
  fc.assert(
    fc.property(
      fc.constantFrom(...names),
      fc.array(argument, { maxLength: 6 }),
      fc.bigInt(-200n, 5000n),
      (name, args, value) => {
        try {
          const { step, decode, definition } = call(name, ...args);
          const isSound = step.args.length === definition.parameters.length && step.args.every(isSoundArgument);
          const noise = answer(
            step.args,
            value,
            (buffers) => void buffers.map((buffer, index) => buffer.fill(index * 37)),
          );
          const result = decode(noise);
          JSON.stringify(callToJson(result));
          return isSound && !/[\p{C}]/u.test(formatCall(result));
        } catch (error) {
          return error instanceof PenumbraError && /^(BAD_ARGUMENT|REFUSED|CORRUPT)$/.test(error.code);
        }
      },
    ),
    { numRuns: 4000 },
  );
  t.pass();
});

function isSoundArgument({ kind, value, bytes, size, step, fixups = [] }: NativeArgument): boolean {
  if (kind === 0) return value !== undefined;
  if (kind === 2) return size !== undefined && size <= MAXIMUM_BUFFER;
  if (kind === 4) return step !== undefined;
  const length = bytes?.length ?? -1;
  return length >= 0 && fixups.every(({ offset, target }) => offset + 8 <= length && target <= length);
}
