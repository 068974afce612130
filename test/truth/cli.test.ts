/** The command line against what the guest's own tools print. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { cli, penumbra, shell } from '../lab/commandLine.js';
import { labGuest, type TestGuest } from '../lab/driver.js';

const sorted = (bytes: Buffer, end: string): string[] => bytes.toString('latin1').split(end).slice(0, -1).sort();

/** A JSON answer of penumbra. */
async function json<Answer>(guest: TestGuest, ...args: string[]): Promise<Answer> {
  const { status, stdout, stderr } = await cli(...args, '--json', '--qmp', guest.socket);
  if (status !== 0) throw new Error(stderr);
  return JSON.parse(stdout.toString()) as Answer;
}

async function text(guest: TestGuest, ...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await cli(...args, '--qmp', guest.socket);
  if (status !== 0) throw new Error(stderr);
  return stdout.toString();
}

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
/** What a directory holds that takes many calls to list. */
const ENTRIES = LONG ? 100_000 : 20_000;

interface Entry {
  name: string | { bytes: string };
  [field: string]: unknown;
}

interface Listing {
  directories: { path: string; entries: Entry[] }[];
}

function nameBytes(name: Entry['name']): string {
  return typeof name === 'string'
    ? Buffer.from(name).toString('latin1')
    : Buffer.from(name.bytes, 'base64').toString('latin1');
}

t.test('one guest, by its own tools and by penumbra', async (t) => {
  await using guest = await labGuest(t, { memoryMiB: 512, diskMiB: 32 });
  const descriptors = readdirSync(`/proc/${guest.pid}/fd`).length;

  await t.test('uname', async (t) => {
    t.equal(`${(await text(guest, 'uname')).trim()} GNU/Linux`, await guest.text('uname -a'));
    t.equal(await text(guest, 'uname', '-nr'), `${await guest.text('uname -n')} ${await guest.text('uname -r')}\n`);
    t.match(await json(guest, 'uname'), { sysname: 'Linux', nodename: 'lab', machine: 'x86_64' });
  });

  await t.test('ls', (t) => compareListings(t, guest));
  await t.test('hostile names', (t) => compareHostileNames(t, guest));
  await t.test(`a directory of ${ENTRIES} entries`, (t) => compareLargeDirectory(t, guest));
  await t.test('cat', (t) => compareContents(t, guest));
  await t.test('cat of what is not in the page cache', (t) => compareUncached(t, guest));
  await t.test('stat', (t) => compareStatus(t, guest));
  await t.test('find', (t) => compareFind(t, guest));
  await t.test('ps', (t) => compareProcesses(t, guest));
  await t.test('syscall and call', (t) => compareCalls(t, guest));
  await t.test('paths too long', (t) => comparePaths(t, guest));
  await t.test('readers that are slow, or leave', (t) => leaveEarly(t, guest));
  await t.test('signals', (t) => interrupt(t, guest));

  t.equal(await guest.runState(), 'running');
  t.equal(
    readdirSync(`/proc/${guest.pid}/fd`).length,
    descriptors + 1,
    "QEMU has no more open files, but for the test's",
  );
});

async function compareListings(t: Test, guest: TestGuest): Promise<void> {
  const own = await guest.text("cd /srv/tree; stat -c '%f %h %u %g %s %b %i %Y %U %G %n' *");
  const { directories } = await json<Listing>(guest, 'ls', '/srv/tree');
  const lines = (directories[0]?.entries ?? []).map((entry) =>
    [
      Number(entry['mode']).toString(16),
      ...['nlink', 'uid', 'gid', 'size', 'blocks', 'ino'].map((field) => entry[field]),
      String(entry['mtimeNs']).slice(0, -9),
      entry['user'],
      entry['group'],
      nameBytes(entry.name),
    ].join(' '),
  );
  t.same(lines, Buffer.from(own).toString('latin1').length > 0 ? own.split('\n').map(onlyAscii(lines)) : []);

  // busybox shows other bytes as question marks.
  const long = (await guest.text('ls -l --full-time /srv/tree')).split('\n').filter((line) => !line.includes('?'));
  const columns = (line: string): string => line.trim().split(/ +/).join(' ');
  const ours = (await text(guest, 'ls', '-l', '/srv/tree'))
    .trim()
    .split('\n')
    .filter((line) => !line.includes('\\'));
  t.same(
    ours.map(columns),
    long
      .map(columns)
      .map((line) => line.replace(/(\d\d:\d\d):\d\d(\.\d+)? \+0000/, '$1').replace(/(\d),(\d)/, '$1, $2')),
  );
  t.equal(await text(guest, 'ls', '-R', '/srv/tree/deep'), `${await guest.text('ls -R /srv/tree/deep')}\n`);
  t.equal(await text(guest, 'ls', '-a', '/'), `${await guest.text('ls -A /')}\n`);
  t.equal(await text(guest, 'ls', '/srv/tree/link'), 'deepest\n');
  t.match(await text(guest, 'ls', '-l', '/srv/tree/link'), /^l.* \/srv\/tree\/link -> deep\/deeper\n$/);
  t.match(await text(guest, 'ls', '-ld', '/srv/tree/deep'), /^drwxr-xr-x 3 root root .* \/srv\/tree\/deep\n$/);
  t.equal(await text(guest, 'ls', '/srv/tree/dangling'), '/srv/tree/dangling\n');
}

/** The console gives text; names that are not UTF-8 are compared in compareHostileNames. */
function onlyAscii(lines: readonly string[]): (line: string, index: number) => string {
  return (line, index) => (line.includes('\ufffd') ? (lines[index] as string) : line);
}

async function compareHostileNames(t: Test, guest: TestGuest): Promise<void> {
  const names = [
    'new\nline',
    'esc\x1b[2J\x1b]0;title\x07',
    '\xff\xfebad',
    'tab\t',
    ' lead',
    'back\\slash',
    '"',
    '\xe2\x80\xae',
    '-',
  ];
  const quoted = names.map((name) => `'./${name}'`).join(' ');
  await guest.run(Buffer.from(`mkdir /srv/hostile; cd /srv/hostile; touch ${quoted}`, 'latin1'));
  const { directories } = await json<Listing>(guest, 'ls', '-a', '/srv/hostile');
  t.same(
    directories[0]?.entries.map(({ name }) => nameBytes(name)),
    [...names].sort(),
  );
  const shown = await text(guest, 'ls', '/srv/hostile');
  t.match(shown, /^[\x20-\x7e\n]*$/, 'nothing a terminal would act upon');
  t.equal(shown.split('\n').length, names.length + 1);
  const found = (await cli('find', '/srv/hostile', '--mindepth', '1', '--print0', '--qmp', guest.socket)).stdout;
  t.same(sorted(found, '\0'), names.map((name) => `/srv/hostile/${name}`).sort());
  await guest.run(Buffer.from("echo inside > '/srv/hostile/\xff\xfebad'", 'latin1'));
  const cat = await shell(`$penumbra cat "$(printf '/srv/hostile/\\377\\376bad')" --qmp ${guest.socket}`);
  t.equal(cat.stdout.toString(), 'inside\n');
}

async function compareLargeDirectory(t: Test, guest: TestGuest): Promise<void> {
  await guest.run(
    `mkdir /tmp/large; mount -t tmpfs -o nr_inodes=0 large /tmp/large; cd /tmp/large; seq 1 ${ENTRIES} | xargs touch`,
    300_000,
  );
  const own = Array.from({ length: ENTRIES }, (_, index) => String(index + 1)).sort();
  t.ok((await text(guest, 'ls', '/tmp/large')) === `${own.join('\n')}\n`);
  const { directories } = await json<Listing>(guest, 'ls', '/tmp/large');
  t.ok(directories[0]?.entries.every(({ type, nlink }) => type === 'file' && nlink === 1));
  t.equal(directories[0]?.entries.length, ENTRIES);
  await guest.run('umount /tmp/large');
}

async function compareContents(t: Test, guest: TestGuest): Promise<void> {
  await guest.run('head -c 9000001 /dev/urandom > /tmp/random');
  for (const path of [
    '/tmp/random',
    '/srv/tree/binary',
    '/bin/busybox',
    '/proc/1/environ',
    '/proc/kallsyms',
    '/dev/null',
  ]) {
    const { stdout, status } = await cli('cat', path, '--qmp', guest.socket);
    const digest = createHash('sha256').update(stdout).digest('hex');
    t.same([status, digest], [0, (await guest.text(`sha256sum < ${path}`)).split(' ')[0]], path);
  }
  const version = await guest.text('cat /proc/version');
  t.same(await json(guest, 'cat', '/proc/version'), {
    path: '/proc/version',
    size: version.length + 1,
    content: `${version}\n`,
  });
  t.equal(
    (await cli('cat', '/srv/tree', '--qmp', guest.socket)).stderr,
    'penumbra: GUEST_ERROR: /srv/tree: the guest answers EISDIR to read (Is a directory)\n',
  );
}

async function compareUncached(t: Test, guest: TestGuest): Promise<void> {
  await guest.run('seq 1 60000 > /data/numbers; sync; echo 3 > /proc/sys/vm/drop_caches');
  const all = Buffer.from(Array.from({ length: 60_000 }, (_, index) => `${index + 1}\n`).join(''));
  await guest.run('head -c 100000 /data/numbers > /dev/null');
  const part = await cli('cat', '/data/numbers', '--qmp', guest.socket);
  t.match(part, {
    status: 1,
    stderr: /^penumbra: DEVICE_ACCESS: \/data\/numbers: not in the guest's page cache \(offset \d+\)\n$/,
  });
  t.equal(part.stdout.length, Number(/offset (\d+)/.exec(part.stderr)?.[1]), 'all before that offset was given');
  t.ok(part.stdout.length >= 100_000 && all.subarray(0, part.stdout.length).equals(part.stdout));
  const { status, stderr } = await cli('ls', '/data/lost+found', '--qmp', guest.socket);
  t.match(
    { status, stderr },
    { status: 1, stderr: /^penumbra: DEVICE_ACCESS: \/data\/lost\+found: not in the guest's memory/ },
  );
  const found = await cli('find', '/data', '--qmp', guest.socket);
  t.match(found, { status: 1, stderr: /\/data\/lost\+found: not in/ });
  t.match(found.stdout.toString(), /^\/data\n[\s\S]*\/data\/numbers\n$/, 'the rest is there');
  await guest.run('cat /data/numbers > /dev/null');
  t.ok((await cli('cat', '/data/numbers', '--qmp', guest.socket)).stdout.equals(all), 'once it is in the cache');
}

async function compareStatus(t: Test, guest: TestGuest): Promise<void> {
  for (const path of ['/srv/tree/numbers', '/srv/tree/link', '/srv/tree/null', '/proc/1', '/dev/console']) {
    const own = await guest.text(`stat -c '%f %h %u %g %s %b %i %o %X %Y %Z' ${path}`);
    const file = await json<Entry>(guest, 'stat', path);
    const seconds = ['atimeNs', 'mtimeNs', 'ctimeNs'].map((field) =>
      String(BigInt(String(file[field])) / 1_000_000_000n),
    );
    const fields = ['nlink', 'uid', 'gid', 'size', 'blocks', 'ino', 'blksize'].map((field) => file[field]);
    t.equal([Number(file['mode']).toString(16), ...fields, ...seconds].join(' '), own, path);
  }
  const followed = await json<Entry>(guest, 'stat', '-L', '/srv/tree/link');
  t.match(followed, { path: '/srv/tree/link', type: 'directory' });
  t.match(
    await text(guest, 'stat', '/srv/tree/null'),
    /character special file\n.*Device type: 1,3\nAccess: \(0644\/crw-r--r--\)/,
  );
  t.equal(
    (await cli('stat', '/no/such', '--qmp', guest.socket)).stderr,
    'penumbra: GUEST_ERROR: /no/such: the guest answers ENOENT to statx (No such file or directory)\n',
  );
}

async function compareFind(t: Test, guest: TestGuest): Promise<void> {
  const cases: [string, string[]][] = [
    ['/srv', []],
    ['/srv/tree -type d', ['--type', 'd']],
    ['/sys/class -maxdepth 2 -type l', ['--maxdepth', '2', '--type', 'l']],
    ["/etc -name '*s*'", ['--name', '*s*']],
    ['/srv/tree/numbers', []],
    ['/srv/tree/link', []],
  ];
  for (const [own, options] of cases) {
    const start = own.split(' ')[0] as string;
    const { stdout } = await cli('find', start, ...options, '--print0', '--qmp', guest.socket);
    t.same(sorted(stdout, '\0'), sorted((await guest.run(`find ${own} -print0`)).stdout, '\0'), own);
  }
}

async function compareProcesses(t: Test, guest: TestGuest): Promise<void> {
  const processes = await json<{ pid: number; user: string; args: string[]; rss: number }[]>(guest, 'ps');
  const own = (await guest.text('ps -o pid,user,args | grep [s]leep'))
    .split('\n')
    .map((line) => line.trim().split(/ +/));
  for (const [pid, user, ...args] of own) {
    t.match(
      processes.find((process) => process.pid === Number(pid)),
      { user, args },
    );
  }
  t.match(await text(guest, 'ps'), /^UID +PID +PPID +C STIME TTY +TIME CMD\nroot +1 +0 /);
  const columns = await text(guest, 'ps', '-o', 'pid,s,comm');
  t.match(columns, /^ *PID S COMMAND\n *1 S init\n/);
  t.match(await text(guest, 'ps'), /\[sh\] <defunct>\n/);
}

async function compareCalls(t: Test, guest: TestGuest): Promise<void> {
  t.equal(await text(guest, 'syscall', 'getpid'), 'getpid() = 1\n');
  t.match(await json(guest, 'syscall', 'readlink', '/proc/1/exe'), { value: 12, output: { buf: '/bin/busybox' } });
  t.match(await json(guest, 'syscall', 'openat', 'AT_FDCWD', '/no/such', 'O_RDONLY'), { value: -2, errno: 'ENOENT' });
  t.match(await text(guest, 'syscall', 'newfstatat', 'AT_FDCWD', '/etc', '@'), /S_IFDIR\|0755.* = 0\n$/);
  t.match(await text(guest, 'call', 'nr_processes'), /^nr_processes\(\) = 0x[0-9a-f]+ \(\d+\)\n$/);
  t.match((await cli('call', 'no_such_function', '--qmp', guest.socket)).stderr, /^penumbra: NO_SYMBOL: /);
  const sleeps = await cli('syscall', 'pause', '--qmp', guest.socket);
  t.ok(sleeps.status === 1 && /^penumbra: (WOULD_BLOCK|REFUSED): /.test(sleeps.stderr), sleeps.stderr);
}

async function comparePaths(t: Test, guest: TestGuest): Promise<void> {
  for (const command of ['ls', 'cat', 'stat', 'find']) {
    const { status, stderr } = await cli(command, `/${'x'.repeat(4999)}`, '--qmp', guest.socket);
    t.match(
      { status, stderr },
      { status: 1, stderr: /^penumbra: GUEST_ERROR: .*\(5000 bytes\): the guest answers ENAMETOOLONG/ },
    );
  }
  const half = `${'d'.repeat(200)}/`.repeat(15);
  await guest.run(`mkdir -p /tmp/a/${half} /tmp/b/${half}; touch /tmp/b/${half}bottom; mv /tmp/b /tmp/a/${half}`);
  const bottom = `/tmp/a/${half}b/${half}bottom`;
  const { stdout } = await cli('find', '/tmp/a', '--name', 'bottom', '--qmp', guest.socket);
  t.equal(stdout.toString(), `${bottom}\n`, `below ${bottom.length} bytes of path`);
  t.ok((await text(guest, 'ls', '-lR', '/tmp/a')).endsWith(' bottom\n'));
}

async function leaveEarly(t: Test, guest: TestGuest): Promise<void> {
  const left = await shell(`$penumbra find / --qmp ${guest.socket} 2>/dev/null | head -n 1; echo "\${PIPESTATUS[0]}"`);
  t.equal(left.stdout.toString(), '/\n0\n');
  const slow = shell(`$penumbra cat /tmp/random --qmp ${guest.socket} | (sleep 5; sha256sum)`);
  await waitForState(guest, 'paused');
  await waitForState(guest, 'running');
  t.equal(await guest.text('echo runs'), 'runs', 'the guest does not wait for the reader');
  const { stdout, stderr } = await slow;
  t.same([stdout.toString().trim(), stderr], [await guest.text('sha256sum < /tmp/random'), '']);
}

async function interrupt(t: Test, guest: TestGuest): Promise<void> {
  for (const [signal, status] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGINT', 130],
  ] as const) {
    const child = spawn(process.execPath, [penumbra, 'cat', '/srv/tree/sparse', '--qmp', guest.socket], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    const ended = new Promise((resolve) => child.once('close', resolve));
    await waitForState(guest, 'paused');
    child.kill(signal);
    t.equal(await ended, status, signal);
    t.equal(await guest.runState(), 'running');
    t.equal(await text(guest, 'syscall', 'getpid'), 'getpid() = 1\n', 'and the next one finds it free');
  }
}

/** Until the guest has been seen in this state twice in a row: a stop of a moment does not count. */
async function waitForState(guest: TestGuest, state: string): Promise<void> {
  for (let seen = 0, attempt = 0; seen < 2 && attempt < 1000; attempt += 1) {
    seen = (await guest.runState()) === state ? seen + 1 : 0;
    await sleep(10);
  }
}

const hasNamespaces = spawnSync('unshare', ['--pid', '--fork', '--mount-proc', 'true']).status === 0;

t.test('--all asks every guest that can be seen', { skip: !hasNamespaces && 'needs a pid namespace' }, async (t) => {
  // A pid namespace, so that the guests of other tests are not among them.
  const script = [
    'export XDG_RUNTIME_DIR=$(mktemp -d)',
    '($penumbra lab up one; $penumbra lab up two) > /dev/null 2>&1',
    '$penumbra uname --all --json; echo "status $?"',
    '$penumbra cat /proc/sys/kernel/ostype --all',
    '$penumbra ls /nonexistent --all; echo "status $?"',
    '$penumbra ps 2>&1; echo "status $?"',
    '$penumbra lab ls --json',
    '$penumbra lab down one; $penumbra lab down two; rm -r $XDG_RUNTIME_DIR',
  ].join('\n');
  const { stdout, stderr } = await shell(`unshare --pid --fork --mount-proc bash -c '${script}'`);
  const lines = stdout.toString().split('\n');
  t.match(JSON.parse(lines[0] as string), [
    { guest: 'one', ok: true, result: { sysname: 'Linux' } },
    { guest: 'two', ok: true, result: { sysname: 'Linux' } },
  ]);
  t.equal(lines[1], 'status 0');
  t.match(lines.slice(2, 6).join('\n'), /^== one \(pid \d+\) ==\nLinux\n== two \(pid \d+\) ==\nLinux$/);
  t.equal(lines[6], 'status 1');
  t.match(lines[7], /^penumbra: NO_GUEST: several guests match, choose one with --guest PID: one .*, two /);
  t.equal(lines[8], 'status 1');
  t.match(JSON.parse(lines[9] as string), [{ name: 'one', state: 'running' }, { name: 'two' }]);
  t.equal(
    stderr,
    ['one', 'two']
      .map(
        (name) =>
          `penumbra: ${name}: GUEST_ERROR: /nonexistent: the guest answers ENOENT to statx (No such file or directory)\n`,
      )
      .join(''),
  );
});
