import { existsSync, readFileSync } from 'node:fs';
import t from 'tap';
import { compareMetadata } from '../src/shadow/compareMetadata.js';
import { constantTable } from '../src/shadow/constants.js';
import { marshal } from '../src/shadow/marshal.js';
import { abiTypes } from '../src/shadow/structs/abiTypes.js';
import { SyscallTable, syscallTable } from '../src/shadow/syscallTable.js';

const table = syscallTable();
const HEADER = '/usr/include/x86_64-linux-gnu/asm/unistd_64.h';

t.test('the table has every call of Linux 6.12', async (t) => {
  const numbers = [...table.all()].map(({ number }) => number);
  const expected = [...Array(336).keys(), ...Array.from({ length: 462 - 423 }, (_, index) => 424 + index)];
  t.strictSame(numbers, expected, '0..335 and 424..462, in order');
  t.equal(table.get('mseal').number, 462);
  t.equal(table.get(257).name, 'openat');
  t.equal(table.find('setxattrat'), undefined, 'which is of 6.13');
});

t.test(
  'numbers agree with the kernel headers of this machine',
  { skip: !existsSync(HEADER) && `no ${HEADER}` },
  async (t) => {
    const header = [...readFileSync(HEADER, 'utf8').matchAll(/^#define __NR_(\w+) (\d+)$/gm)];
    const differing = header.filter(([, name = '', number]) => {
      const known = table.find(name);
      return known === undefined ? Number(number) <= 462 : known.number !== Number(number);
    });
    t.ok(header.length > 350);
    t.strictSame(differing, []);
  },
);

t.test('every line is well formed and names types and groups that exist', async (t) => {
  const { groups } = constantTable();
  const unknown: string[] = [];
  for (const { name, parameters, refusal } of table.all()) {
    for (const { kind } of parameters) {
      if (kind.form === 'value' && kind.group !== undefined && !groups.has(kind.group))
        unknown.push(`${name}: ${kind.group}`);
      if (kind.form !== 'buffer' || abiTypes.has(kind.type) || /^(iovec|msghdr|mmsghdr)$/.test(kind.type)) continue;
      if (kind.type !== 'strings' || refusal === undefined) unknown.push(`${name}: ${kind.type}`);
    }
  }
  t.strictSame(unknown, []);
  const malformed = [
    'x',
    '1 a',
    '1 a allow -- why',
    '1 a refuse',
    '1 a allow b',
    '1 a allow b:nonsense',
    '1 a allow b:in:byte[c]',
  ];
  for (const line of [...malformed, '1 a allow b:in:byte{*c} c:size', `1 a allow ${'b:int '.repeat(7)}`]) {
    t.throws(() => [...new SyscallTable(line).all()], { code: 'INTERNAL' }, line);
  }
  t.throws(() => new SyscallTable('1 a allow\n1 b allow'), { code: 'INTERNAL', message: /twice/ });
});

t.test('refusals carry their reason', async (t) => {
  for (const name of 'reboot kexec_load fork vfork clone clone3 execve execveat exit exit_group pause iopl sync swapon init_module'.split(
    ' ',
  )) {
    const { refusal = '' } = table.get(name);
    t.match(refusal, /^[a-z].{20,100}[^.]$/, name);
    t.throws(() => marshal(table, name, []), { code: 'REFUSED', message: `${name}: ${refusal}` });
  }
});

t.test('unknown calls name the nearest', async (t) => {
  const near = "there is no system call 'fstatat': did you mean newfstatat?";
  t.throws(() => table.get('fstatat'), { code: 'BAD_ARGUMENT', message: near });
  t.throws(() => table.get(400), { code: 'BAD_ARGUMENT', message: 'there is no system call number 400' });
});

t.test('metadata of a guest is compared by count, pointers and names', async (t) => {
  const guest = (name: string, ...args: string[]) => ({
    name: `sys_${name}`,
    nb_args: args.length,
    types: args.map((arg) => arg.replace(/\w+$/, '').trim()),
    args: args.map((arg) => /\w+$/.exec(arg)?.[0] ?? ''),
  });
  const good = [
    guest('openat', 'int dfd', 'const char *filename', 'int flags', 'umode_t mode'),
    guest('newstat', 'const char *filename', 'struct stat *statbuf'),
    guest('stat', 'const char *filename', 'struct __old_kernel_stat *statbuf', 'int of_another_abi'),
    guest('capget', 'cap_user_header_t header', 'cap_user_data_t dataptr'),
    guest('ioctl', 'unsigned int fd', 'unsigned int cmd', 'unsigned long arg'),
    guest('waitpid', 'pid_t pid', 'int *stat_addr', 'int options'),
  ];
  t.strictSame(compareMetadata(table, good), []);
  const bad = [
    guest('read', 'unsigned int fd', 'char *buf'),
    guest('write', 'unsigned int fd', 'size_t buf', 'size_t length'),
  ];
  t.strictSame(
    compareMetadata(table, bad).map(({ syscall, kind }) => `${syscall} ${kind}`),
    ['read count', 'write pointer', 'write name'],
  );
});
