/** How the rules of redirection are compiled, and how redirected tools behave. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { attach } from '../src/index.js';
import { toolEnvironment } from '../src/redirect/environment.js';
import { localFiles } from '../src/redirect/localFiles.js';
import { compilePolicy } from '../src/redirect/policy.js';
import { redirectionRules } from '../src/redirect/rules.js';
import type { RunOptions } from '../src/redirect/run.js';
import { findTool } from '../src/redirect/tool.js';
import { syscallTable } from '../src/shadow/syscallTable.js';
import { labGuest } from './lab/driver.js';
import { runTool as run } from './lab/runTool.js';

t.setTimeout(300_000);

const signals = fileURLToPath(new URL('../../test/signals.c', import.meta.url));
const processes = fileURLToPath(new URL('../../test/processes.c', import.meta.url));

t.test('the rules', async (t) => {
  const rules = redirectionRules();
  const missing = [...syscallTable().all()].filter(({ name }) => !rules.has(name)).map(({ name }) => name);
  t.same(missing, [], 'every call of the table has a rule');
  const policy = compilePolicy();
  t.equal(policy.calls.length, 512 * 160);
  t.throws(() => redirectionRules('allow read'), { code: 'INTERNAL', message: /line 1: no rule 'allow'/ });
  t.throws(() => redirectionRules('guest read\nhere read'), { message: /line 2: read occurs twice/ });
  t.throws(() => redirectionRules('guest only x read'), { message: /'x' is no condition/ });
  t.throws(() => compilePolicy(syscallTable(), redirectionRules('guest nosuch')), { message: /no system call nosuch/ });
  t.throws(() => compilePolicy(syscallTable(), redirectionRules('guest only x=1 read')), {
    message: /read has no argument x/,
  });
});

t.test('the local files', async (t) => {
  const { localPaths, toolKinds } = localFiles('kind snake python*\nsnake any /lib/python/\nevery open /dev/null');
  t.same(toolKinds, [{ kind: 1, pattern: 'python*' }]);
  t.same(localPaths, [
    { kinds: 1, match: 1, use: 1, path: '/lib/python' },
    { kinds: 0, match: 0, use: 0, path: '/dev/null' },
  ]);
  for (const wrong of ['kind', 'snake any /x', 'every look /x', 'every any /x /y']) {
    t.throws(() => localFiles(wrong), { code: 'INTERNAL', message: /line 1/ }, wrong);
  }
});

t.test('the environment', async (t) => {
  const environment = toolEnvironment({ LANG: 'C', SECRET: 'x', LC_ALL: 'C', PATH: '/own' }, ['MINE=1']).map(String);
  t.ok(environment.includes('LANG=C') && environment.includes('MINE=1'));
  t.notOk(environment.some((entry) => entry.startsWith('SECRET') || entry === 'PATH=/own'));
});

t.test('finding a tool', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-tools-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const make = (name: string, content: Buffer | string, mode = 0o755): string => {
    const path = join(folder, name);
    writeFileSync(path, content);
    chmodSync(path, mode);
    return path;
  };
  t.equal(findTool([Buffer.from('sh')], '/nowhere:/usr/bin').program, '/usr/bin/sh');
  t.throws(() => findTool([Buffer.from('no-such-tool')]), { code: 'NO_TOOL' });
  t.throws(() => findTool([]), { code: 'NO_TOOL' });
  t.throws(() => findTool([Buffer.from('/no/such')]), { code: 'NO_TOOL' });
  t.throws(() => findTool([Buffer.from(make('plain', 'x', 0o644))]), { code: 'UNSUPPORTED' });
  t.throws(() => findTool([Buffer.from(folder)]), { code: 'UNSUPPORTED' });
  t.throws(() => findTool([Buffer.from(make('text', 'echo'))]), { code: 'UNSUPPORTED', message: /no 64-bit program/ });
  const elf = Buffer.from(readFileSync('/usr/bin/true'));
  elf[4] = 1;
  t.throws(() => findTool([Buffer.from(make('narrow', elf))]), { code: 'UNSUPPORTED', message: /no 64-bit program/ });
  t.ok(findTool([Buffer.from(make('script', '#!/bin/sh\n'))]));
  t.ok(findTool([Buffer.from(make('short', '#! /bin/sh -e'))]));
  const [lost, strange] = [make('lost', '#!/no/such/interpreter\n'), make('strange', `#!${join(folder, 'narrow')}\n`)];
  t.throws(() => findTool([Buffer.from(lost)]), { message: /script for '\/no\/such\/interpreter'/ });
  t.throws(() => findTool([Buffer.from(strange)]), { message: /narrow is no 64-bit program/ });
  if (process.getuid?.() === 0) {
    const changing = make('changing', readFileSync('/usr/bin/true'));
    chownSync(changing, 1, 1);
    chmodSync(changing, 0o4755);
    t.throws(() => findTool([Buffer.from(changing)]), { code: 'UNSUPPORTED', message: /the rights of another user/ });
  }
});

/** Programs that ask the same of one entry after the other, and now and then something else. */
const WALKS = [
  'ps -ef',
  'ps axms -o pid,tid,comm,wchan',
  // Of the borrowed task's files those count that the shadow has open.
  'find /proc -maxdepth 3 -not -path "*/fd*/*"',
  'find /sys/kernel /sys/class -maxdepth 2 -printf "%p %y %s %l\\n"',
  'ls -lR /proc/1/ns /proc/1/net /proc/sys/kernel',
  // Two look different each time, the others count what the walk itself has made.
  'sysctl -a | grep -Ev "random|dentry|inode|file-nr"',
  'grep -s -H . /proc/[0-9]*/comm /proc/[0-9]*/stat /proc/[0-9]*/status',
  'for i in /proc/[0-9]*; do readlink $i/exe; head -c 20 $i/stat; tail -n 3 $i/status; done',
  'lsof -n',
  'cat /proc/[0-9]*/cmdline | tr "\\0" "\\n" & grep -c . /proc/[0-9]*/maps; wait',
];

/** Of programs that run at the same time either may print first. */
function printed(line: string, stdout: string): string {
  return line.includes(' & ') ? stdout.split('\n').sort().join('\n') : stdout;
}

/** All threads of this process on one processor, where nothing can be asked ahead. */
async function onOneProcessor<Result>(job: () => Promise<Result>): Promise<Result> {
  const bind = (list: string) => execFileSync('taskset', ['-a', '-c', '-p', list, String(process.pid)]);
  const before = /list: (.*)\n/.exec(bind('0').toString())?.[1] as string;
  try {
    return await job();
  } finally {
    bind(before);
  }
}

t.test('tools against a guest', async (t) => {
  const lab = await labGuest(t);
  await using guest = await attach({ qmp: lab.socket, callTimeout: 5000 });
  const shell = (command: string, options?: RunOptions, input?: string) =>
    run(guest, ['sh', '-c', command], options, input);

  await t.test('exit status', async (t) => {
    t.equal((await shell('exit 7')).exit, 7);
    t.equal(
      (await shell('kill -TERM $$; true')).exit,
      0,
      'its own number is that of the borrowed task, who is not hit',
    );
    t.equal((await run(guest, ['cat', '/nowhere'])).exit, 1);
  });

  await t.test('processes, pipes and files of their own', async (t) => {
    t.equal((await shell('cat /etc/passwd | grep alice | cut -d: -f1')).stdout, 'alice\n');
    t.equal(
      (await shell('cat < /etc/passwd | head -1; (cd /srv/tree; pwd); pwd')).stdout.split('\n').slice(1).join(' '),
      '/srv/tree / ',
    );
    t.equal((await shell('cat; cat /dev/stdin', {}, 'from here\n')).stdout, 'from here\n');
    t.equal((await shell('sleep 1000 & echo $((1 + 1))')).stdout, '2\n', 'what is left behind is ended');
    t.equal(
      (await shell('i=0; while [ $i -lt 40 ]; do cat /etc/hosts > /dev/null; i=$((i + 1)); done; echo $i')).stdout,
      '40\n',
    );
  });

  await t.test('what is asked of each process is asked ahead, where there is a second processor', async (t) => {
    // Not while other programs want that processor: then now and then.
    let most = 0;
    for (let i = 0; i < 20 && most < 0.2; ++i) {
      const { foreseen, guestEntries } = await run(guest, ['ps', '-ef']);
      most = Math.max(most, foreseen / guestEntries);
    }
    t.equal(most >= 0.2, availableParallelism() > 1, `${most} of all`);
  });

  await t.test('what is asked ahead is what would have been answered', async (t) => {
    await lab.qmp('stop');
    for (const line of WALKS) {
      const alone = await onOneProcessor(() => shell(line));
      t.equal(alone.foreseen, 0);
      // The second one begins as the first did.
      for (let times = 0; times < 2; ++times) {
        const { exit, stdout, stderr } = await shell(line);
        t.equal(printed(line, stdout), printed(line, alone.stdout), line);
        t.same({ exit, stderr }, { exit: alone.exit, stderr: alone.stderr }, line);
      }
    }
    await lab.qmp('cont');
  });

  await t.test("children's ends break nothing off", async (t) => {
    const loop = 'i=0; while [ $i -lt 100 ]; do true | false | cat /etc/hosts || exit; i=$((i + 1)); done > /dev/null';
    t.match(await run(guest, ['dash', '-c', loop]), { exit: 0, stderr: '' });
  });

  await t.test('signals break off what waits, and nothing else', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'penumbra-signals-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    const program = join(folder, 'signals');
    execFileSync('gcc', ['-O1', '-o', program, signals]);
    const { stdout } = await run(guest, [program, '/etc/passwd']);
    t.equal(stdout, execFileSync(program, ['/etc/passwd'], { encoding: 'latin1' }), 'as without redirection');
    t.match(stdout, /^0 broken off, many signals\n/);
  });

  await t.test('processes keep what is theirs while others change', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'penumbra-processes-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    const [program, script] = [join(folder, 'processes'), join(folder, 'script')];
    execFileSync('gcc', ['-O1', '-no-pie', '-pthread', '-o', program, processes]);
    writeFileSync(script, '#!/no/such/interpreter\n', { mode: 0o755 });
    const { exit, stdout, stderr } = await run(guest, [program, script]);
    t.equal(stdout, execFileSync(program, [script], { encoding: 'latin1' }), 'as without redirection');
    t.match({ exit, stderr }, { exit: 0, stderr: '' });
  });

  await t.test('the guest, and not the host', async (t) => {
    t.match((await run(guest, ['readlink', '/proc/self/fd/1'])).stdout, /^host:\[\d+\]\n$/, "no name of the host's");
    t.equal((await run(guest, ['uname', '-n'])).stdout, 'lab\n');
    t.equal((await run(guest, ['hostname'])).stdout, 'lab\n');
    const release = (await lab.text('uname -r')).trim();
    t.equal((await run(guest, ['uname', '-r'])).stdout.trim(), release);
    const environment = (await run(guest, ['env'])).stdout;
    t.notMatch(environment, /npm_|NODE|TAP/);
    const clock = Number((await run(guest, ['date', '+%s'])).stdout);
    t.ok(Math.abs(clock - Number(await lab.text('date +%s'))) < 30, "the guest's time");
  });

  await t.test('what would act is refused, and vanishes with --scratch', async (t) => {
    const refused = await shell('echo x > /tmp/new');
    t.not(refused.exit, 0);
    t.match(refused.stderr, /penumbra: openat is refused: writing to \/tmp\/new/);
    const scratch = await shell('echo x > /tmp/new; mkdir /tmp/folder; cat /tmp/new; ls -d /tmp/folder', {
      scratch: true,
    });
    t.equal(scratch.stdout, 'x\n/tmp/folder\n');
    t.equal(await lab.text('ls /tmp/new /tmp/folder 2> /dev/null; true'), '');
    t.match((await run(guest, ['kill', '-9', '2'])).stderr, /kill is refused/);
    t.equal((await shell('kill -0 2 && echo there')).stdout, 'there\n');
  });

  await t.test('time passes for those who sleep', async (t) => {
    const [first = 0, second = 0] = (await shell('date +%s; sleep 100; date +%s')).stdout
      .trim()
      .split('\n')
      .map(Number);
    t.equal(second - first, 100);
  });

  await t.test('a path by whose it is', async (t) => {
    t.match((await shell('cat guest:/etc/passwd')).stdout, /alice/);
    t.equal((await shell('cat /etc/lab/../passwd | grep -c alice')).stdout, '1\n');
  });

  await t.test('copies by the kernel', async (t) => {
    const file = '/bin/busybox';
    const hash = (text: string): string => createHash('sha256').update(text, 'latin1').digest('hex');
    const truth = (await lab.text(`sha256sum < ${file}`)).split(' ')[0];
    const python = (...lines: string[]): string => `/usr/bin/python3 -c '${lines.join('\n')}'`;
    const opened = ['import os, shutil', `f = open("${file}", "rb")`];
    for (const copying of [
      `cat ${file}`,
      `cp ${file} /dev/stdout`,
      `tail -c +1 ${file}`,
      `tar cf - ${file} 2> /dev/null | tar xOf -`,
      python(...opened, 'shutil.copyfileobj(f, open("/dev/stdout", "wb"))'),
      python(...opened, 'while os.sendfile(1, f.fileno(), None, 1 << 30): pass'),
    ]) {
      const piped = await shell(`${copying} | sha256sum`);
      t.same([piped.stdout.split(' ')[0], piped.stderr], [truth, ''], `${copying} to a pipe`);
      const filed = await shell(copying);
      t.same([hash(filed.stdout), filed.stderr], [truth, ''], `${copying} to a file`);
    }
    const splicing = python(...opened, 'while os.splice(f.fileno(), 1, 1 << 20): pass');
    t.equal((await shell(`${splicing} | sha256sum`)).stdout.split(' ')[0], truth, 'splice to a pipe');

    const positions = python(
      ...opened,
      'd, data, (r, w) = f.fileno(), f.read(), os.pipe2(os.O_NONBLOCK)',
      'def says(call):',
      '  try: return call()',
      '  except OSError as error: return error.errno',
      'os.lseek(d, 5, 0)',
      'print(os.sendfile(w, d, 100, 50), os.read(r, 99) == data[100:150], os.lseek(d, 0, 1))',
      'print(os.sendfile(w, os.dup(d), None, 7), os.read(r, 99) == data[5:12], os.read(d, 4) == data[12:16])',
      'print(os.sendfile(w, d, 0, 1 << 20) > 0, says(lambda: os.sendfile(w, d, 0, 1 << 20)))',
      'print(says(lambda: os.copy_file_range(d, w, 9)), says(lambda: os.copy_file_range(d, os.memfd_create("m"), 9)))',
      'os.close(r)',
      'print(says(lambda: os.sendfile(w, d, 0, 9)), says(lambda: os.sendfile(w, os.open("/", 0), 0, 9)))',
      'print(says(lambda: os.sendfile(d, os.memfd_create("m"), 0, 9)))',
    );
    const { EAGAIN, EINVAL, EXDEV, EPIPE, EBADF } = constants.errno;
    t.same((await shell(positions)).stdout.split('\n'), [
      '50 True 5',
      '7 True True',
      `True ${EAGAIN}`,
      `${EINVAL} ${EXDEV}`,
      `${EPIPE} ${EINVAL}`,
      `${EBADF}`,
      '',
    ]);

    const intoTheGuest = python(
      ...opened,
      'd, data, m, (r, w) = f.fileno(), f.read(), os.memfd_create("m"), os.pipe()',
      'os.write(m, data)',
      'os.lseek(m, 9, 0)',
      'g = os.open("/tmp/copy", os.O_RDWR | os.O_CREAT)',
      'print(os.sendfile(g, m, None, 7), os.lseek(m, 0, 1), os.lseek(g, 0, 1), os.pread(g, 99, 0) == data[9:16])',
      'os.write(w, b"hello world")',
      'print(os.splice(r, g, 5, offset_dst=2), os.read(r, 99), os.pread(g, 99, 0) == data[9:11] + b"hello")',
      'os.lseek(d, 0, 0)',
      'print(os.sendfile(g, d, None, 100), os.lseek(d, 0, 1), os.pread(g, 999, 7) == data[:100])',
    );
    const { stdout } = await shell(intoTheGuest, { scratch: true });
    t.same(stdout.split('\n'), ['7 16 7 True', "5 b' world' True", '100 100 True', '']);
  });

  await t.test('asked twice in a row', async (t) => {
    const perl = (program: string) => run(guest, ['perl', '-e', program], { scratch: true });
    const calls = async (times: number) => (await perl(`stat("/etc/passwd") for 1..${times}`)).guestCalls;
    t.equal(await calls(1000), await calls(1), 'the guest is asked once');
    const grown = 'open(F, ">>", "/tmp/grown"); print -s "/tmp/grown", " "; syswrite(F, "x" x $_); print -s F, " "';
    t.equal((await perl(`for (1..4) { ${grown} }`)).stdout, '0 1 1 3 3 6 6 10 ', 'and again after a change');
    const other = 'print((stat "/etc/passwd")[1] != (stat "/etc/hosts")[1], -e "/etc/passwd", -e "/nowhere" ? "" : 1)';
    t.equal((await perl(other)).stdout, '111', 'another file is another question');
  });

  await t.test('the budget', async (t) => {
    const { stdout, stderr } = await shell(
      'cat /etc/passwd | wc -l; find / > /dev/null 2>&1; cat /etc/passwd | wc -l',
      { budget: 1 },
    );
    t.match(stderr, /the guest stood for 1 ms: its memory was copied/);
    const [before, after] = stdout.trim().split('\n');
    t.equal(before, after);
    t.equal(await lab.runState(), 'running');
  });

  await t.test('interrupted', async (t) => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(new Error('enough')), 300);
    const loop = `while :; do : of ${process.pid}; done`;
    await t.rejects(shell(loop, { signal: stop.signal }), { message: 'enough' });
    t.equal(await lab.runState(), 'running');
    const left = spawnSync('pgrep', ['-f', loop], { encoding: 'utf8' }).stdout;
    t.equal(left, '', 'no process is left');
  });
});
