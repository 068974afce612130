import fc from 'fast-check';
import t from 'tap';
import { argumentBytes } from '../src/cli/arguments.js';
import { duration, instant, minute, startOfProcess } from '../src/cli/clock.js';
import { commands } from '../src/cli/commands.js';
import { failureLine } from '../src/cli/failure.js';
import { modeText } from '../src/cli/fileMode.js';
import { toJson } from '../src/cli/json.js';
import { parseOrdinary } from '../src/cli/parseOrdinary.js';
import { parseWithYargs } from '../src/cli/parseWithYargs.js';
import { byteSize } from '../src/cli/quantity.js';
import { table } from '../src/cli/table.js';
import { GuestError, PenumbraError } from '../src/errors.js';
import { compileGlob } from '../src/inspect/glob.js';
import { baseName, joinPath, printablePath } from '../src/inspect/guestPath.js';
import { jsonText } from '../src/text.js';
import { cli, shell } from './lab/commandLine.js';

t.test('wrong usage: one line, how to go on, status 2, nothing on stdout', async (t) => {
  const cases: [string[], string][] = [
    [[], 'no command is given (penumbra --help)'],
    [['nosuch'], 'Unknown argument: nosuch (penumbra --help)'],
    [['--json'], 'no command is given (penumbra --help)'],
    [['ls', '/a', '/b'], 'Unknown argument: /b (penumbra ls --help)'],
    [['ls', '--nosuch'], 'Unknown argument: nosuch (penumbra ls --help)'],
    [['ls', '--guest'], 'Not enough arguments following: guest (penumbra ls --help)'],
    [['ls', '--guest', 'a', '--guest', 'b'], '--guest is given more than once (penumbra ls --help)'],
    [['ls', '--qmp', 'a', '--all'], 'Arguments qmp and all are mutually exclusive (penumbra ls --help)'],
    [['ls', '--timeout', '0'], "--timeout is a number from 1 to 3600000, not '0' (penumbra ls --help)"],
    [['ls', '--as', 'init'], "--as is a number from 1 to 4194304, not 'init' (penumbra ls --help)"],
    [['cat'], 'Not enough non-option arguments: got 0, need at least 1 (penumbra cat --help)'],
    [['find', '--type', 'x'], "--type is one of f d l c b p s, not 'x' (penumbra find --help)"],
    [['syscall', 'opena'], "there is no system call 'opena': did you mean openat? (penumbra syscall --help)"],
    [['syscall', 'close', 'x'], "fd (fd): 'x' is neither a number nor a known symbol (penumbra syscall --help)"],
    [['call', 'f', 'x'], "'x' is no number of 64 bits (penumbra call --help)"],
    [
      ['call', 'f', '1', '2', '3', '4', '5', '6', '7'],
      'a function takes at most 6 arguments here (penumbra call --help)',
    ],
    [['lab', 'up', '--memory', '1'], "--memory is a number from 128 to 16384, not '1' (penumbra lab --help)"],
  ];
  await Promise.all(
    cases.map(async ([args, message]) => {
      const { status, stdout, stderr } = await cli(...args);
      t.same(
        { status, stdout: stdout.toString(), stderr },
        { status: 2, stdout: '', stderr: `penumbra: ${message}\n` },
      );
    }),
  );
  t.match((await cli('ps', '--engine', 'foo')).stderr, /Argument: engine, Given: "foo", Choices: "auto"/);
  t.match((await cli('ps', '-o', 'pid,foo')).stderr, /there is no column 'foo': user group/);
});

t.test('failures: code, what happened, status 1', async (t) => {
  const gone = await cli('ps', '--qmp', '/nonexistent/socket');
  t.match(gone, { status: 1, stderr: /^penumbra: NO_GUEST: .*\/nonexistent\/socket.*\n$/ });
  t.match(await cli('ps', '--guest', 'no such guest'), { status: 1, stderr: /^penumbra: NO_GUEST: .*\n$/ });
  t.match(await cli('syscall', 'reboot'), { status: 1, stderr: /^penumbra: REFUSED: reboot: acts on the machine/ });
  const hostile = await shell(`$penumbra ps --qmp "$(printf '/x\\033[2J\\n')"`);
  t.match(hostile.stderr, /^penumbra: NO_GUEST: [\x20-\x7e]*\n$/);
});

t.test('help: every command says what it does, with examples', async (t) => {
  const main = await cli('--help');
  t.equal(main.status, 0);
  const names = [...main.stdout.toString().matchAll(/^ {2}penumbra (\w+)/gm)].map(([, name]) => name as string);
  t.same(
    names,
    commands.map(({ usage }) => usage.split(' ')[0]),
  );
  await Promise.all(
    names.map(async (name) => {
      const help = await cli(name, '-h');
      t.match(help, { status: 0, stderr: '' });
      t.match(help.stdout.toString(), /Examples:\n {2}penumbra /, name);
    }),
  );
  t.match((await cli('--version')).stdout.toString(), /^\d+\.\d+\.\d+\n$/);
});

t.test('guests: a JSON array of records', async (t) => {
  const { status, stdout } = await cli('guests', '--json');
  t.equal(status, 0);
  for (const guest of JSON.parse(stdout.toString()) as object[]) {
    t.match(guest, { pid: Number, uid: Number, name: String, accelerator: String, ramKind: String, state: String });
  }
});

t.test('what the quick parser takes, it takes as yargs does', async (t) => {
  const word = fc.constantFrom(
    ...[
      '-l',
      '-R',
      '-la',
      '-x',
      '--long',
      '--json',
      '--guest',
      '--guest=a',
      '--qmp',
      'a',
      '/b c',
      '-',
      '--',
      '-1',
      '--all',
    ],
    ...[
      '--engine',
      'kvm',
      'qemu',
      '--engine=unicorn',
      '',
      '--name',
      '*.c',
      '--print0',
      '-o',
      'pid',
      '--no-json',
      '-vl',
    ],
  );
  const line = fc.tuple(
    fc.constantFrom('ls', 'find', 'cat', 'ps', 'syscall', 'call', 'uname'),
    fc.array(word, { maxLength: 5 }),
  );
  let compared = 0;
  await fc.assert(
    fc.asyncProperty(line, async ([command, words]) => {
      const quick = await parseOrdinary([command, ...words]);
      if (quick === undefined || 'text' in quick) return;
      compared += 1;
      const full = await parseWithYargs([command, ...words]);
      if ('text' in full) throw new Error('yargs gives help');
      for (const [name, value] of Object.entries(quick.args)) {
        const other = full.args[name] ?? [];
        if (JSON.stringify(other) !== JSON.stringify(value))
          throw new Error(`${words}: ${name}: ${JSON.stringify(other)}`);
      }
      t.equal(quick.command, full.command);
    }),
    { numRuns: 300 },
  );
  t.ok(compared > 30, `${compared} compared`);
});

t.test('arguments that are not UTF-8 reach the command byte for byte', async (t) => {
  t.same(argumentBytes('a\udcff\udc80é👍'), Buffer.concat([Buffer.from([0x61, 0xff, 0x80]), Buffer.from('é👍')]));
  const echoed = await shell(`$penumbra syscall open "$(printf 'x\\377\\303\\251\\300')" --qmp /nonexistent`);
  t.match(echoed.stderr, /NO_GUEST/);
  const usage = await shell(`$penumbra ls a "$(printf '\\377\\033')"`);
  t.equal(usage.stderr, 'penumbra: Unknown argument: \\377\\033 (penumbra ls --help)\n');
});

t.test('JSON: bytes, large numbers, errors', async (t) => {
  const record = {
    name: Buffer.from('é'),
    odd: Buffer.from([0xff]),
    small: 5n,
    large: 2n ** 63n,
    list: [Buffer.from('a')],
  };
  t.equal(
    jsonText(toJson(record)),
    '{"name":"é","odd":{"bytes":"/w=="},"small":5,"large":"9223372036854775808","list":["a"]}',
  );
  t.same(toJson(new GuestError('ENOENT', 'openat', '/x')), {
    code: 'GUEST_ERROR',
    message: '/x: the guest answers ENOENT to openat',
    errno: 'ENOENT',
    syscall: 'openat',
  });
  t.match(toJson(new PenumbraError('NOT_MAPPED', 'no page', { address: 0xfffn })), { address: '0xfff' });
});

t.test('failure lines are one printable line', async (t) => {
  t.equal(
    failureLine(new GuestError('ENOENT', 'openat', 'a\\nb')),
    'penumbra: GUEST_ERROR: a\\nb: the guest answers ENOENT to openat (No such file or directory)',
  );
  t.equal(
    failureLine(new PenumbraError('QMP', 'two\nlines\x1b[2J'), 'g\n'),
    'penumbra: g\\n: QMP: two\\nlines\\033[2J',
  );
  t.equal(failureLine(new TypeError('x')), 'penumbra: INTERNAL: x');
});

t.test('times, sizes, modes, tables', async (t) => {
  const zone = process.env['TZ'];
  process.env['TZ'] = 'UTC';
  t.teardown(() => {
    if (zone === undefined) delete process.env['TZ'];
    else process.env['TZ'] = zone;
  });
  t.equal(minute(1732190897123456789n), '2024-11-21 12:08');
  t.equal(instant(1732190897123456789n), '2024-11-21 12:08:17.123456789 +0000');
  t.equal(instant(-1n), '1969-12-31 23:59:59.999999999 +0000');
  t.equal(instant(2n ** 63n * 1_000_000_000n), `@${2n ** 63n}`);
  t.equal(duration(93_784_000), '1-02:03:04');
  const now = Date.UTC(2024, 10, 21, 12);
  t.same(
    [now - 3_600_000, now - 10 * 86_400_000, Date.UTC(2023, 1, 1), Number.NaN].map((ms) => startOfProcess(ms, now)),
    ['11:00', 'Nov11', '2023', '?'],
  );
  t.same([0n, 1023n, 268435456n, 1610612736n].map(byteSize), ['0 B', '1023 B', '256 MiB', '1.5 GiB']);
  t.equal(modeText('file', 0o104755), '-rwsr-xr-x');
  t.equal(modeText('directory', 0o41776), 'drwxrwxrwT');
  const rows = [{ a: 'x', b: 10 }];
  const columns = [
    { title: 'NAME', text: ({ a }: { a: string }) => a },
    { title: 'N', text: ({ b }: { b: number }) => String(b), align: 'right' as const },
  ];
  t.equal(table(columns as never, rows), 'NAME  N\nx    10\n');
});

t.test('paths', async (t) => {
  const base = (path: string): string => baseName(Buffer.from(path)).toString();
  t.same(['/', '//', 'a', 'a/', '/a/b', '/a/bc//', '.'].map(base), ['/', '/', 'a', 'a', 'b', 'bc', '.']);
  t.equal(joinPath(Buffer.from('/'), Buffer.from('x')).toString(), '/x');
  t.equal(printablePath(Buffer.alloc(5000, 'x')).length, 200 + '... (5000 bytes)'.length);
});

t.test('glob: fixed cases, and as a plain matcher has it', async (t) => {
  const matches = (pattern: string, name: string): boolean => compileGlob(Buffer.from(pattern))(Buffer.from(name));
  const yes = [
    '* x',
    '*.c a.c',
    'a?c abc',
    '[a-c]x bx',
    '[!a]b cb',
    '[]x] ]',
    '[a x[a',
    '\\* *',
    '**a** xaz',
    '[\\]] ]',
  ];
  const no = ['*.c a.h', 'a?c ac', '[a-c]x dx', '[!a]b ab', '\\* x', ' x', 'a b'];
  for (const line of yes.filter((each) => each !== '[a x[a')) {
    const [pattern = '', name = ''] = line.split(' ');
    t.ok(matches(pattern, name), line);
  }
  t.ok(matches('x[a', 'x[a'), 'a bracket that nothing closes stands for itself');
  for (const line of no) t.notOk(matches(...(line.split(' ') as [string, string])), line);
  t.ok(matches('.*', '.hidden') && matches('*', '.hidden'), 'a leading dot is nothing special, as in find(1)');
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), maxLength: 8 });
  fc.assert(
    fc.property(text, fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 8 }), (pattern, name) => {
      const plain = new RegExp(`^${pattern.replaceAll('*', '.*').replaceAll('?', '.')}$`);
      return matches(pattern, name) === plain.test(name);
    }),
  );
  const begin = performance.now();
  t.notOk(matches(`${'*a'.repeat(50)}b`, 'a'.repeat(250)));
  t.ok(performance.now() - begin < 1000, 'a hostile pattern takes no time');
});
