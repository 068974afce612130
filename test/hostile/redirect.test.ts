/** What a redirected tool can do to its host: nothing. */
import { execFileSync, spawn } from 'node:child_process';
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
import { syscallTable } from '../../src/shadow/syscallTable.js';
import { labGuest } from '../lab/driver.js';

t.setTimeout(900_000);

const source = fileURLToPath(new URL('../../../test/hostile/everyCall.c', import.meta.url));
const limit = 600_000;

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
