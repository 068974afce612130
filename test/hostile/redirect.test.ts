/** What a redirected tool can do to its host: nothing. What becomes of one that misbehaves, or of its guest. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  lstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { attach } from '../../src/index.js';
import { hostProgram } from '../../src/lab/hostTools.js';
import { syscallTable } from '../../src/shadow/syscallTable.js';
import { labGuest } from '../lab/driver.js';
import { runTool as run } from '../lab/runTool.js';

t.setTimeout(900_000);

const source = fileURLToPath(new URL('../../../test/hostile/everyCall.c', import.meta.url));
const waysOutSource = fileURLToPath(new URL('../../../test/hostile/waysOut.c', import.meta.url));
const limit = 600_000;

/** What waysOut.c is to print: EPERM, ENOTTY, and what a kernel gives. */
const WAYS_OUT = {
  'datagram-pair': '-1',
  'raw-pair': '-1',
  'stream-pair': '0',
  bind: '-1',
  connect: '-1',
  sendto: '-1',
  interface: '-25',
  write: '1',
  'set-owner': '-1',
  'set-owner-ex': '-1',
  async: '-1',
  'ioctl-owner': '-1',
  'ioctl-group': '-1',
  'ioctl-async': '-1',
  nonblocking: '0',
  'loader-file': '-1',
  'loader-pipe': '-1',
  'loader-device': '-1',
  'loader-cache': '0',
  'set-flags': '-25',
  freeze: '-25',
  mode: '-1',
  'other-number': '1',
  'own-number': '1',
  map: '-19',
  'get-lock': '1',
  poll: '2',
  'poll-closed': '1',
  'closed-folder': '-9',
};

/** What a program could have changed, and nothing that changes by itself. */
function hostState(folder: string): object {
  const entries = readdirSync(folder).map((name) => {
    const { mode, uid, gid, size, mtimeMs, nlink } = lstatSync(join(folder, name));
    return { name, mode, uid, gid, size, mtimeMs, nlink };
  });
  // Not every host has all of them.
  const lines = (path: string): string => (existsSync(path) ? readFileSync(path, 'utf8') : '');
  return {
    entries,
    canary: readFileSync(join(folder, 'canary'), 'utf8'),
    hostname: lines('/proc/sys/kernel/hostname'),
    domain: lines('/proc/sys/kernel/domainname'),
    mounts: lines('/proc/self/mounts'),
    swaps: lines('/proc/swaps'),
    namespaces: readdirSync('/proc/self/ns').map((name) => readlinkSync(`/proc/self/ns/${name}`)),
    limits: lines('/proc/self/limits'),
    shared: lines('/proc/sysvipc/shm').split('\n').length,
    queues: lines('/proc/sysvipc/msg'),
    semaphores: lines('/proc/sysvipc/sem'),
    modules: lines('/proc/modules').split('\n').length,
  };
}

t.test('every system call, with arguments that would do harm', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-canary-'));
  const tools = mkdtempSync(join(tmpdir(), 'penumbra-tool-'));
  t.teardown(() => {
    for (const path of [folder, tools]) rmSync(path, { recursive: true });
  });
  writeFileSync(join(folder, 'canary'), 'untouched\n');
  symlinkSync('canary', join(folder, 'link'));
  const program = join(tools, 'everyCall');
  execFileSync('gcc', ['-O1', '-static', '-o', program, source]);
  const victim = spawn('sleep', ['1000'], { stdio: 'ignore' });
  t.teardown(() => victim.kill());

  const guest = await labGuest(t);
  const before = hostState(folder);
  const clock = Date.now() - performance.now();
  const output = openSync(join(tools, 'output'), 'w+');
  const errors = openSync(join(tools, 'errors'), 'w+');
  const nothing = openSync('/dev/null', 'r');
  {
    await using attached = await attach({ qmp: guest.socket, callTimeout: 2000 });
    const result = await attached.run([program, folder, String(victim.pid)], {
      budget: 0,
      fds: [nothing, output, errors],
      signal: AbortSignal.timeout(limit),
    });
    t.equal(result.exit, 0, 'the program goes through all of them', {
      stderr: readFileSync(join(tools, 'errors'), 'utf8').slice(-2000),
    });
  }
  for (const fd of [nothing, output, errors]) closeSync(fd);

  const printed = readFileSync(join(tools, 'output'), 'utf8');
  t.match(printed, /\ndone\n$/);
  const results = printed.split('\n').map((line) => line.split(' ').map(Number));
  const tried = new Set(results.map(([number]) => number));
  t.ok(tried.size > 300, `${tried.size} numbers were answered`);
  t.same(hostState(folder), before, 'the host is as it was');
  t.equal(victim.exitCode, null, 'a process of the host lives on');
  t.ok(Math.abs(Date.now() - performance.now() - clock) < 5000, "the host's clock was not set");

  const harmful = [
    'mount',
    'reboot',
    'kexec_load',
    'init_module',
    'swapoff',
    'ptrace',
    'bpf',
    'io_uring_setup',
    'settimeofday',
  ];
  for (const name of harmful) {
    const { number } = syscallTable().get(name);
    const answers = results.filter(([tried]) => tried === number).map(([, , value]) => value);
    t.ok(
      answers.length > 0 && answers.every((value) => value === -1 || value === -38),
      `${name}: ${answers.join(' ')}`,
    );
  }
});

t.test('tools that misbehave', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-tools-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const lab = await labGuest(t, { diskMiB: 64 });
  await lab.text('seq 1 100000 > /data/large; sync; echo 3 > /proc/sys/vm/drop_caches');
  await using guest = await attach({ qmp: lab.socket, callTimeout: 5000 });
  const shell = (command: string) => run(guest, ['sh', '-c', command]);
  const program = (name: string, source: string): string => {
    const path = join(folder, name);
    writeFileSync(`${path}.c`, source);
    execFileSync('gcc', ['-O1', '-o', path, `${path}.c`]);
    return path;
  };
  const waysOut = program('waysOut', readFileSync(waysOutSource, 'utf8'));

  for (const scratch of [false, true]) {
    await t.test(`one that knows ways out${scratch ? ', with --scratch' : ''}`, async (t) => {
      const place = mkdtempSync(join(tmpdir(), 'penumbra-canary-'));
      t.teardown(() => rmSync(place, { recursive: true }));
      writeFileSync(join(place, 'canary'), 'untouched\n', { mode: 0o644 });
      execFileSync('mkfifo', [join(place, 'fifo')]);
      const victim = spawn('sleep', ['1000'], { stdio: 'ignore' });
      t.teardown(() => victim.kill());
      const { exit, stdout, stderr } = await run(guest, [waysOut, place, String(victim.pid)], { scratch });
      t.equal(exit, 0, stderr);
      t.same(
        Object.fromEntries(
          stdout
            .trim()
            .split('\n')
            .map((line) => line.split(' ')),
        ),
        WAYS_OUT,
      );
      t.equal(victim.signalCode, null, 'a process of the host lives on');
      t.same(readdirSync(place).sort(), ['canary', 'fifo']);
    });
  }

  await t.test('one for another processor, by way of a shell', async (t) => {
    const narrow = join(folder, 'narrow');
    const elf = readFileSync('/usr/bin/true');
    elf[4] = 1;
    writeFileSync(narrow, elf, { mode: 0o755 });
    const { stdout, stderr } = await shell(`${narrow} 2> /dev/null; echo $?`);
    t.match(stdout, /^12[67]\n$/);
    t.match(stderr, /execve is refused: .*narrow is no 64-bit program/);
  });

  await t.test('static, and scripts', async (t) => {
    t.equal((await run(guest, [hostProgram('busybox') ?? '/bin/busybox', 'cat', '/etc/hostname'])).exit, 1);
    t.match((await run(guest, [hostProgram('busybox') ?? '/bin/busybox', 'cat', '/etc/passwd'])).stdout, /alice/);
    const script = join(folder, 'script');
    writeFileSync(script, '#!/bin/sh\necho $1; head -n 1 /etc/passwd\n', { mode: 0o755 });
    t.equal((await run(guest, [script, 'first'])).stdout, 'first\nroot:x:0:0:root:/root:/bin/sh\n');
  });

  await t.test('one that goes into the background', async (t) => {
    const daemon = program(
      'daemon',
      `#include <sys/wait.h>
       #include <unistd.h>
       int main() {
         if (fork()) return wait(0), 0;
         setsid();
         if (fork()) return 0;
         for (int fd = 0; fd < 3; ++fd) close(fd);
         for (;;) pause();
       }`,
    );
    t.match(await run(guest, [daemon]), { exit: 0, leftOver: 1 });
    t.equal(spawnSync('pgrep', ['-f', daemon], { encoding: 'utf8' }).stdout, '', 'it is gone');
  });

  await t.test('one that forks without end', async (t) => {
    const marker = join(folder, 'bomb');
    const { stderr } = await shell(`f() { f | f; }; f; : ${marker}`);
    t.match(stderr, /penumbra: the tool has too many processes: no more are started/);
    t.equal(spawnSync('pgrep', ['-f', marker], { encoding: 'utf8' }).stdout, '', 'all are gone');
  });

  await t.test('one that reads 4 GiB', async (t) => {
    const before = process.memoryUsage().rss;
    const { stderr } = await shell('dd if=guest:/dev/zero of=/dev/null bs=1M count=4096');
    t.match(stderr, /^4294967296 bytes/m);
    t.ok(process.memoryUsage().rss - before < 128 << 20, 'memory is bounded');
  });

  await t.test('ones that wait for the time', async (t) => {
    const poll = program('poll', '#include <time.h>\nint main() { time_t t = time(0); while (time(0) < t + 5); }');
    const polling = await run(guest, [poll]);
    t.not(polling.exit, 0);
    t.match(polling.stderr, /does nothing but wait for time to pass, and the guest's clock stands still: ended/);
    const looking = await shell('while :; do cat /etc/hosts; sleep 1; done');
    t.not(looking.exit, 0);
    t.match(looking.stderr, /waits again and again for something to change, which nothing does in a shadow: ended/);
    t.equal((await shell('timeout 3 sleep 2; echo $?')).stdout, '0\n', 'a single wait is over at once');
  });

  await t.test('one that maps files', { skip: hostProgram('python3') === undefined && 'no Python here' }, async (t) => {
    const code = `import mmap
f = open('/srv/tree/numbers', 'rb')
private = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
private[0:1] = b'X'
shared = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
sparse, large = open('/srv/tree/sparse', 'rb'), open('/data/large', 'rb')
part = mmap.mmap(sparse.fileno(), 8192, access=mmap.ACCESS_READ, offset=1 << 29)
print(private[:4], shared[:4], shared[-5:], len(shared), part[:2], f.read(2))
try:
  mmap.mmap(large.fileno(), 0, access=mmap.ACCESS_READ)
except OSError as error:
  print(error.errno)`;
    const { stdout, stderr } = await run(guest, ['python3', '-I', '-S', '-c', code]);
    t.equal(stdout, "b'X\\n2\\n' b'1\\n2\\n' b'1000\\n' 3893 b'\\x00\\x00' b'1\\n'\n5\n", stderr);
    t.match(stderr, /pread64 of \/data\/large is not answered: it needs the guest's disk/);
    const own = "import os; print(os.path.exists('guest:' + os.__file__), os.path.exists(os.__file__))";
    t.equal((await run(guest, ['python3', '-I', '-S', '-c', own])).stdout, 'False True\n', 'one path, two files');
  });

  await t.test('files that are not in memory', async (t) => {
    const { exit, stdout, stderr } = await run(guest, ['cat', '/data/large', '/etc/hosts']);
    t.equal(exit, 1);
    t.equal(stdout, await lab.text('cat /etc/hosts').then((text) => `${text}\n`));
    t.match(stderr, /penumbra: read of \/data\/large is not answered: it needs the guest's disk/);
    t.match(stderr, /cat: \/data\/large: Input\/output error/);
    const sum = await lab.text('md5sum /data/large');
    t.equal((await run(guest, ['md5sum', '/data/large'])).stdout, `${sum}\n`, 'once it has been read');
  });
});

t.test('a guest that dies while a tool runs', async (t) => {
  const lab = await labGuest(t);
  const guest = await attach({ qmp: lab.socket });
  const started = performance.now();
  setTimeout(() => process.kill(lab.pid, 'SIGKILL'), 500);
  const marker = `${lab.socket}-marker`;
  const running = run(guest, ['sh', '-c', `while :; do cat /etc/hosts; done; : ${marker}`]);
  await t.rejects(running, { code: 'GUEST_GONE' });
  t.ok(performance.now() - started < 10_000, 'at once');
  t.equal(spawnSync('pgrep', ['-f', marker], { encoding: 'utf8' }).stdout, '', 'the tool is gone too');
  await guest.close().catch(() => undefined);
});
