import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { PenumbraError } from '../src/errors.js';
import { abiTypes } from '../src/shadow/structs/abiTypes.js';
import { decodeDirents } from '../src/shadow/structs/dirent.js';
import { splitDevice } from '../src/shadow/structs/file.js';
import type { AbiType } from '../src/shadow/structs/layout.js';
import { decodeSocketAddress, encodeSocketAddress, formatIPv6 } from '../src/shadow/structs/socketAddress.js';

const type = (name: string) => abiTypes.get(name) as AbiType<Record<string, unknown>>;

/**
 * Structures as the C compiler of this machine lays them out: each field is set to a value of its own by C, and has to
 * be found again by the decoder. Fields are given as `ours=theirs` where the names differ in more than a prefix.
 */
const LAYOUTS: [name: string, cType: string, fields: string][] = [
  [
    'stat',
    'struct stat',
    'dev=st_dev ino=st_ino nlink=st_nlink mode=st_mode uid=st_uid gid=st_gid rdev=st_rdev size=st_size ' +
      'blksize=st_blksize blocks=st_blocks atime.sec=st_atim.tv_sec atime.nsec=st_atim.tv_nsec ' +
      'mtime.sec=st_mtim.tv_sec ctime.nsec=st_ctim.tv_nsec',
  ],
  [
    'statx',
    'struct statx',
    'mask=stx_mask blksize=stx_blksize attributes=stx_attributes nlink=stx_nlink uid=stx_uid gid=stx_gid ' +
      'mode=stx_mode ino=stx_ino size=stx_size blocks=stx_blocks attributesMask=stx_attributes_mask ' +
      'atime.sec=stx_atime.tv_sec btime.nsec=stx_btime.tv_nsec ctime.sec=stx_ctime.tv_sec ' +
      'mtime.nsec=stx_mtime.tv_nsec rdevMajor=stx_rdev_major rdevMinor=stx_rdev_minor devMajor=stx_dev_major ' +
      'devMinor=stx_dev_minor mntId=stx_mnt_id dioMemAlign=stx_dio_mem_align ' +
      'dioOffsetAlign=stx_dio_offset_align',
  ],
  [
    'statfs',
    'struct statfs',
    'type=f_type bsize=f_bsize blocks=f_blocks bfree=f_bfree bavail=f_bavail files=f_files ffree=f_ffree ' +
      'namelen=f_namelen frsize=f_frsize flags=f_flags',
  ],
  [
    'sysinfo',
    'struct sysinfo',
    'uptime=uptime totalram=totalram freeram=freeram sharedram=sharedram bufferram=bufferram ' +
      'totalswap=totalswap freeswap=freeswap procs=procs totalhigh=totalhigh freehigh=freehigh ' +
      'memUnit=mem_unit',
  ],
  ['rlimit', 'struct rlimit', 'cur=rlim_cur max=rlim_max'],
  [
    'rusage',
    'struct rusage',
    'utime.sec=ru_utime.tv_sec stime.usec=ru_stime.tv_usec maxrss=ru_maxrss ixrss=ru_ixrss idrss=ru_idrss ' +
      'isrss=ru_isrss minflt=ru_minflt majflt=ru_majflt nswap=ru_nswap inblock=ru_inblock oublock=ru_oublock ' +
      'msgsnd=ru_msgsnd msgrcv=ru_msgrcv nsignals=ru_nsignals nvcsw=ru_nvcsw nivcsw=ru_nivcsw',
  ],
  ['tms', 'struct tms', 'utime=tms_utime stime=tms_stime cutime=tms_cutime cstime=tms_cstime'],
  [
    'timex',
    'struct timex',
    'modes=modes offset=offset freq=freq maxerror=maxerror esterror=esterror status=status ' +
      'constant=constant precision=precision tolerance=tolerance time.sec=time.tv_sec tick=tick ' +
      'ppsfreq=ppsfreq jitter=jitter shift=shift stabil=stabil jitcnt=jitcnt calcnt=calcnt errcnt=errcnt ' +
      'stbcnt=stbcnt tai=tai',
  ],
  ['itimerspec', 'struct itimerspec', 'interval.sec=it_interval.tv_sec value.nsec=it_value.tv_nsec'],
  ['itimerval', 'struct itimerval', 'interval.usec=it_interval.tv_usec value.sec=it_value.tv_sec'],
  ['utimbuf', 'struct utimbuf', 'actime=actime modtime=modtime'],
  ['timezone', 'struct timezone', 'minuteswest=tz_minuteswest dsttime=tz_dsttime'],
  ['pollfd', 'struct pollfd', 'fd=fd events=events revents=revents'],
  ['epoll_event', 'struct epoll_event', 'events=events data=data.u64'],
  ['siginfo', 'siginfo_t', 'signo=si_signo errno=si_errno code=si_code pid=si_pid uid=si_uid status=si_status'],
  ['stack', 'stack_t', 'sp=ss_sp flags=ss_flags size=ss_size'],
  ['sembuf', 'struct sembuf', 'num=sem_num op=sem_op flg=sem_flg'],
  ['mq_attr', 'struct mq_attr', 'flags=mq_flags maxmsg=mq_maxmsg msgsize=mq_msgsize curmsgs=mq_curmsgs'],
  ['open_how', 'struct open_how', 'flags=flags mode=mode resolve=resolve'],
  ['cap_header', 'struct __user_cap_header_struct', 'version=version pid=pid'],
  ['cap_data', 'struct __user_cap_data_struct', 'effective=effective permitted=permitted inheritable=inheritable'],
  ['user_desc', 'struct user_desc', 'entryNumber=entry_number baseAddr=base_addr limit=limit'],
  ['mount_attr', 'struct mount_attr', 'attrSet=attr_set attrClr=attr_clr propagation=propagation usernsFd=userns_fd'],
  ['io_event', 'struct io_event', 'data=data obj=obj res=res res2=res2'],
  ['futex_waitv', 'struct futex_waitv', 'val=val uaddr=uaddr flags=flags'],
  ['remote_iovec', 'struct iovec', 'base=iov_base len=iov_len'],
];

const HEADERS =
  'stddef.h stdio.h string.h sys/stat.h sys/vfs.h sys/sysinfo.h sys/resource.h sys/times.h sys/time.h sys/timex.h time.h ' +
  'utime.h poll.h sys/epoll.h signal.h sys/sem.h mqueue.h linux/openat2.h ' +
  'linux/capability.h asm/ldt.h linux/mount.h linux/aio_abi.h linux/futex.h sys/uio.h';

/** Prints, per structure, its size and its bytes after field number n has been set to 17 + n. */
function cProgram(): string {
  const blocks = LAYOUTS.map(([, cType, fields]) => {
    const sets = fields
      .split(' ')
      .map((pair, index) => `v.${pair.split('=')[1]} = (__typeof__(v.${pair.split('=')[1]})) (${17 + index});`);
    return `{ ${cType} v; memset(&v, 0, sizeof v); ${sets.join(' ')} dump(&v, sizeof v); }`;
  });
  const includes = HEADERS.split(' ').map((header) => `#include <${header}>`);
  const dump =
    'static void dump(void *p, unsigned long n) { for (unsigned long i = 0; i < n; i++) printf("%02x", ((unsigned char *)p)[i]); puts(""); }';
  return ['#define _GNU_SOURCE', ...includes, dump, `int main(void) { ${blocks.join('\n')} return 0; }`].join('\n');
}

function compiledLayouts(): string[] | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-layout-'));
  try {
    writeFileSync(join(folder, 'layout.c'), cProgram());
    execFileSync('cc', ['-w', '-o', join(folder, 'layout'), join(folder, 'layout.c')], { stdio: 'pipe' });
    return execFileSync(join(folder, 'layout'), { encoding: 'utf8' }).trim().split('\n');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const dumps = compiledLayouts();

t.test('structures are where the C compiler puts them', { skip: dumps === undefined && 'no C compiler' }, async (t) => {
  for (const [index, [name, , fields]] of LAYOUTS.entries()) {
    const bytes = Buffer.from(dumps?.[index] ?? '', 'hex');
    t.equal(type(name).size, bytes.length, `size of ${name}`);
    const decoded = type(name).decode(bytes);
    const found = fields.split(' ').map((pair) => {
      const path = pair.split('=')[0]?.split('.') ?? [];
      return Number(path.reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], decoded));
    });
    t.strictSame(
      found,
      [...found.keys()].map((field) => field + 17),
      name,
    );
  }
});

t.test('structures without a C twin', async (t) => {
  t.equal(type('utsname').size, 390);
  const uname = Buffer.alloc(390);
  for (const [index, text] of ['Linux', 'host', '6.12', '#1', 'x86_64', '(none)'].entries())
    uname.write(text, index * 65);
  t.strictSame(Object.values(type('utsname').decode(uname)).map(String), [
    'Linux',
    'host',
    '6.12',
    '#1',
    'x86_64',
    '(none)',
  ]);
  const loads = Buffer.alloc(112);
  loads.writeBigUInt64LE(65536n, 16);
  t.strictSame(type('sysinfo').decode(loads).loads, [0n, 65536n, 0n]);
  t.strictSame(type('sigset').decode(Buffer.from('0140000000000080', 'hex')), [1, 15, 64]);
  t.strictSame(type('cpuset').decode(Buffer.of(5, 0, 1)), [0, 2, 16]);
  t.strictSame(type('cpuset').encode?.([0, 9]).subarray(0, 2), Buffer.of(1, 2));
  t.strictSame(type('names').decode(Buffer.from('user.a\0security.b\0')), [
    Buffer.from('user.a'),
    Buffer.from('security.b'),
  ]);
  t.strictSame(type('u64list').decode(Buffer.alloc(16, 1)), [0x0101010101010101n, 0x0101010101010101n]);
  t.equal(
    type('mnt_id_req').encode?.({ param: 1n }).toString('hex', 0, 24),
    `18000000${'00'.repeat(4)}${'ff'.repeat(8)}01${'00'.repeat(7)}`,
  );
  t.equal(type('sched_attr').encode?.({ policy: 3 }).readUInt32LE(0), 56);
});

t.test('statmount strings are found by offset, and only inside the buffer', async (t) => {
  const bytes = Buffer.alloc(600);
  bytes.writeBigUInt64LE(0x18n, 8);
  bytes.writeUInt32LE(8, 108);
  bytes.write('/\0......./proc\0', 512);
  const mount = type('statmount').decode(bytes);
  t.strictSame(mount.mntRoot, Buffer.from('/'));
  t.strictSame(mount.mntPoint, Buffer.from('./proc'));
  t.equal(mount.fsType, undefined);
  bytes.writeUInt32LE(0xffffffff, 108);
  t.throws(() => type('statmount').decode(bytes), { code: 'CORRUPT' });
});

t.test('device numbers', async (t) => {
  const { major, minor } = splitDevice(statSync('/dev/null', { bigint: true }).rdev);
  t.strictSame([major, minor], [1, 3]);
  t.strictSame(splitDevice(0xfff00801n), { major: 8, minor: 0xfff01 });
});

function dirent64(ino: bigint, type: number, name: Buffer): Buffer {
  const record = Buffer.alloc((19 + name.length + 8) & ~7);
  record.writeBigUInt64LE(ino, 0);
  record.writeUInt16LE(record.length, 16);
  record.writeUInt8(type, 18);
  name.copy(record, 19);
  return record;
}

t.test('directory listings', async (t) => {
  const name = fc
    .uint8Array({ minLength: 1, maxLength: 255 })
    .map((bytes) => Buffer.from(bytes.map((byte) => byte || 1)));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.bigInt(0n, 2n ** 64n - 1n), fc.nat(255), name), { maxLength: 20 }), (entries) => {
      const decoded = decodeDirents(Buffer.concat(entries.map(([ino, kind, text]) => dirent64(ino, kind, text))));
      return (
        decoded.length === entries.length &&
        decoded.every((entry, index) => {
          const [ino, kind, text] = entries[index] as [bigint, number, Buffer];
          return entry.ino === ino && entry.type === kind && entry.name.equals(text);
        })
      );
    }),
  );
  const old = Buffer.alloc(24);
  old.writeUInt16LE(24, 16);
  old.write('ab', 18);
  old.writeUInt8(4, 23);
  t.match(decodeDirents(old, 'dirent'), [{ name: Buffer.from('ab'), type: 4 }]);
  for (const length of [0, 19, 25, 65535]) {
    const record = dirent64(1n, 4, Buffer.from('abc'));
    record.writeUInt16LE(length, 16);
    t.throws(() => decodeDirents(record), {
      code: 'CORRUPT',
      message: `dirent64 at byte 0 has the record length ${length}, 24 bytes are left`,
    });
  }
});

t.test('socket addresses', async (t) => {
  const round = (address: object) => decodeSocketAddress(encodeSocketAddress(address));
  for (const address of [
    { family: 'unspec' },
    { family: 'unix' },
    { family: 'unix', path: Buffer.from('/run/a') },
    { family: 'unix', abstract: Buffer.from('a\0b') },
    { family: 'inet', address: '192.0.2.1', port: 65535 },
    { family: 'inet6', address: '2001:db8::1', port: 53, flowinfo: 5, scopeId: 2 },
    { family: 'netlink', pid: 4000000000, groups: 1 },
  ]) {
    t.strictSame(round(address), address);
  }
  t.strictSame(decodeSocketAddress(Buffer.from('01002f610062', 'hex')), { family: 'unix', path: Buffer.from('/a') });
  t.strictSame(decodeSocketAddress(Buffer.of(38, 0, 7)), { family: 38, data: Buffer.of(7) });
  t.strictSame(round({ family: 'inet6', address: '::ffff:192.0.2.1' }), {
    family: 'inet6',
    address: '::ffff:c000:201',
    port: 0,
    flowinfo: 0,
    scopeId: 0,
  });
  for (const bad of [
    null,
    {},
    { family: 'inet', address: '1.2.3' },
    { family: 'inet6', address: 'fe80::1%eth0' },
    { family: 'inet', address: '1.2.3.4', port: 70000 },
  ]) {
    t.throws(() => encodeSocketAddress(bad), { code: 'BAD_ARGUMENT' });
  }
  for (const hex of ['01', '02000050', '0a00', '1000', '1100'])
    t.throws(() => decodeSocketAddress(Buffer.from(hex, 'hex')), { code: 'CORRUPT' });
  const group = fc.oneof(fc.constant(0), fc.nat(0xffff));
  fc.assert(
    fc.property(fc.array(group, { minLength: 8, maxLength: 8 }), (groups) => {
      const bytes = Buffer.alloc(16);
      for (const [index, value] of groups.entries()) bytes.writeUInt16BE(value, index * 2);
      const text = formatIPv6(bytes);
      const address = decodeSocketAddress(encodeSocketAddress({ family: 'inet6', address: text }));
      return new URL(`http://[${text}]`).hostname === `[${text}]` && 'address' in address && address.address === text;
    }),
    { numRuns: 1000 },
  );
});

t.test('IPv6 addresses are taken as Node takes them', async (t) => {
  const piece = fc.constantFrom(':', '::', '0', 'f', 'FFFF', '12345', '1.2.3.4', '256.1.1.1', '.', 'g', '1');
  const taken = (text: string) => {
    try {
      encodeSocketAddress({ family: 'inet6', address: text });
      return true;
    } catch {
      return false;
    }
  };
  const near = fc.array(piece, { maxLength: 17 }).map((pieces) => pieces.join(''));
  const colons = fc
    .array(fc.constantFrom('', '0', 'ab', '1.2.3.4'), { maxLength: 9 })
    .map((groups) => groups.join(':'));
  fc.assert(
    fc.property(fc.oneof(near, colons), (text) => taken(text) === isIPv6(text)),
    { numRuns: 5000 },
  );
  for (const text of [
    '::',
    '1::',
    '::1',
    '1:2:3:4:5:6:7:8',
    '1:2:3:4:5:6:1.2.3.4',
    '1:2:3:4:5:6:7::',
    '::1:2:3:4:5:6:7:8',
    ':1',
    '1:',
  ]) {
    t.equal(taken(text), isIPv6(text), text);
  }
});

t.test('hostile bytes give a value or an error, never anything else', async (t) => {
  fc.assert(
    fc.property(fc.constantFrom(...abiTypes.values()), fc.uint8Array({ maxLength: 700 }), (abiType, noise) => {
      try {
        abiType.decode(Buffer.from(noise));
        return true;
      } catch (error) {
        return error instanceof PenumbraError && error.code === 'CORRUPT';
      }
    }),
    { numRuns: 5000 },
  );
  fc.assert(
    fc.property(fc.constantFrom(...abiTypes.values()), fc.anything(), (abiType, value) => {
      try {
        return abiType.encode === undefined || abiType.encode(value).length >= 0;
      } catch (error) {
        return error instanceof PenumbraError && error.code === 'BAD_ARGUMENT';
      }
    }),
    { numRuns: 5000 },
  );
  t.pass();
});

t.test('what is encoded is decoded again', async (t) => {
  for (const abiType of abiTypes.values()) {
    if (abiType.encode === undefined || abiType.variable) continue;
    const bytes = Buffer.from(Array.from({ length: abiType.size }, (_, index) => (index * 7 + 1) & 0x7f));
    const value = abiType.decode(bytes);
    t.strictSame(abiType.decode(abiType.encode(value)), value, abiType.name);
  }
});
