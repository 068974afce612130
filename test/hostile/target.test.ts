/** Targets that are not there, not what they seem, or end in the middle. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { addon } from '../../src/binding.js';
import { startTimeOf } from '../../src/hypervisor/qemuProcess.js';
import { attach, type Guest, type PenumbraError } from '../../src/index.js';
import { NativePhysicalMemory } from '../../src/target/nativeMemory.js';
import { bareMachine, spinningSystem } from '../lab/bareMachine.js';
import { cli, penumbra, shell } from '../lab/commandLine.js';
import { labGuest, type TestGuest } from '../lab/driver.js';
import { leavesNothing } from '../lab/leftovers.js';
import { RamFile, WalkedMemory } from '../lab/ramFile.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 1_800_000 : 300_000);

const ROUNDS = LONG ? 100 : 8;
const RUNS = LONG ? 3000 : 150;
/** Generous, for a loaded machine. */
const BOOT_MS = 120_000;
const SUSPENDED_MS = 60_000;
const SEED = LONG ? Date.now() & 0x7fffffff : 20261121;

async function refuses(t: Test, options: Parameters<typeof attach>[0], code: string, message: RegExp): Promise<void> {
  await t.test(`${code}: ${message.source}`, (t) =>
    leavesNothing(t, async () => {
      await t.rejects(attach(options), { code, message });
    }),
  );
}

t.test('sockets with no guest behind them', async (t) => {
  // The folder for lock files is made once and stays.
  await attach({ qmp: '/nowhere' }).catch(() => undefined);
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = (name: string) => join(folder, name);
  const listen = async (name: string, answer: string | undefined): Promise<Server> => {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      if (answer !== undefined) socket.write(answer);
    });
    await once(server.listen(path(name)), 'listening');
    server.unref();
    t.teardown(() => server.close());
    return server;
  };
  writeFileSync(path('file'), '');
  // A server that Node closes takes its socket with it: a killed one leaves it there.
  await shell(`cd ${folder}; timeout -s KILL 1 ${process.execPath} -e 'require("net").createServer().listen("dead")'`);
  await listen('mute', undefined);
  await listen('other', '{"QMP": {"version": {}, "capabilities": []}}\r\n');

  await refuses(t, { qmp: path('none') }, 'NO_GUEST', /there is no socket .*none/);
  await refuses(t, { qmp: `${path('file')}/none` }, 'NO_GUEST', /there is no socket/);
  await refuses(t, { qmp: path('file') }, 'NOT_QEMU', /is no socket/);
  await refuses(t, { qmp: path('dead') }, 'GUEST_GONE', /nobody listens on .*dead any more/);
  await refuses(t, { qmp: path('mute') }, 'NOT_QEMU', /belongs to process \d+ \(.*\), which is not QEMU/);
  await refuses(t, { qmp: path('other') }, 'NOT_QEMU', /which is not QEMU/);
  await refuses(t, { qmp: `/${'a'.repeat(5000)}` }, 'BAD_ARGUMENT', /name is too long/);
  await refuses(t, { guest: 'no such guest' }, 'NO_GUEST', /no guest is called|no QEMU guest/);
});

t.test('machines without Linux, with shared and with private RAM', async (t) => {
  const noise = Buffer.alloc(32 << 20);
  for (let at = 0; at < noise.length; at += 8)
    noise.writeBigUInt64LE((BigInt(at) * 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn, at);

  const firmware = await bareMachine(t);
  await refuses(t, { qmp: firmware.qmp }, 'NO_KERNEL', /paging is off|not in long mode/);
  t.equal(await firmware.runState(), 'running');
  await refuses(t, { qmp: firmware.hmp }, 'NOT_QEMU', /is not a QMP monitor/);

  const unshared = await bareMachine(t, { isPrivate: true });
  await refuses(t, { qmp: unshared.qmp }, 'NO_KERNEL', /paging is off|not in long mode/);
  t.equal(await unshared.runState(), 'running');

  const halted = await bareMachine(t, { halted: true, ram: noise });
  await refuses(t, { qmp: halted.qmp }, 'NO_KERNEL', /paging is off|not in long mode/);
  t.equal(await halted.runState(), 'prelaunch');

  const other = await bareMachine(t, { bootSector: await spinningSystem(), ram: noise });
  const registers = () => other.truth.execute('human-monitor-command', { 'command-line': 'info registers' });
  for (let looks = 0; !/RIP=0000000000007d4/.test((await registers()) as string); looks += 1) {
    if (looks === 3000) throw new Error(`it did not boot: ${await registers()}`);
    await sleep(10);
  }
  await refuses(t, { qmp: other.qmp }, 'NO_KERNEL', /is no Linux kernel: no banner, no symbol table|maps no kernel/);
  t.equal(await other.runState(), 'running');
  const { status, stderr } = await cli('ps', '--qmp', other.qmp);
  t.match({ status, lines: stderr.trimEnd().split('\n') }, { status: 1, lines: [/^penumbra: NO_KERNEL: .*$/] });
});

t.test('one guest, attached to in every way', async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1', load: 'idle' });

  await t.test('a monitor that serves somebody else', async (t) => {
    const client = connect(lab.socket);
    await once(client, 'data');
    await refuses(t, { qmp: lab.socket }, 'QMP_BUSY', /a monitor serves one client at a time/);
    client.destroy();
  });

  await t.test('a guest that another penumbra has', async (t) => {
    await using guest = await attach({ qmp: lab.socket });
    await refuses(t, { qmp: lab.socket }, 'BUSY', new RegExp(`is in use by process ${process.pid} `));
    t.ok((await guest.processes()).length > 20);
  });

  await t.test('a guest that the penumbra of another user has', (t) => ofAnotherUser(t, lab));

  await t.test(
    'a user without rights',
    { skip: process.getuid?.() !== 0 && 'only root can become another' },
    async (t) => {
      const nobody = 'setpriv --reuid=65534 --regid=65534 --clear-groups';
      const ps = () => shell(`${nobody} ${process.execPath} ${penumbra} ps --qmp ${lab.socket}`);
      chmodSync(lab.lab.folder, 0o700);
      t.match(await ps(), { status: 1, stderr: /PERMISSION: user 65534 may not connect to .*search permission/ });
      chmodSync(lab.lab.folder, 0o755);
      chmodSync(lab.socket, 0o600);
      t.match(await ps(), {
        status: 1,
        stderr: /PERMISSION: user 65534 may not connect to .*write permission on the socket/,
      });
      chmodSync(lab.socket, 0o666);
      t.match(await ps(), {
        status: 1,
        stderr: /PERMISSION: user 65534 may not see .*the right to trace it is missing/,
      });
      chmodSync(lab.lab.folder, 0o700);
    },
  );

  await t.test('a process that is not there', async (t) => {
    await refuses(t, { qmp: lab.socket, as: 4_000_000 }, 'NO_TASK', /the guest has no process 4000000/);
    const pid = Number(await lab.text('sleep 1000 > /dev/null 2>&1 & echo $!'));
    await using guest = await attach({ qmp: lab.socket, as: pid });
    t.equal(await guest.use((shadow) => shadow.syscall('getpid')), BigInt(pid));
    await lab.text(`kill ${pid}`);
    await t.rejects(guest.processes(), { code: 'NO_TASK', message: /the task to be borrowed has ended/ });
  });

  await t.test('attached to and let go, over and over', async (t) => {
    await attachOnce(lab);
    await leavesNothing(t, async () => {
      for (let round = 0; round < ROUNDS; round += 1) await attachOnce(lab);
    });
    t.equal(await lab.runState(), 'running');
  });

  await t.test('given up in the middle', async (t) => {
    const stop = new AbortController();
    stop.abort(new Error('given up'));
    await leavesNothing(t, async () => {
      await t.rejects(attach({ qmp: lab.socket, signal: stop.signal }), { message: 'given up' });
      await using guest = await attach({ qmp: lab.socket });
      await t.rejects(
        guest.use(async () => 0, stop.signal),
        { message: 'given up' },
      );
      await t.rejects(
        guest.use(async () => {
          throw new Error('of the job');
        }),
        { message: 'of the job' },
      );
      t.equal(await guest.use((shadow) => shadow.syscall('getpid')), 1n);
    });
    t.equal(await lab.text('echo alive'), 'alive');
  });

  await t.test('its gdbstub is switched off while it stands', async (t) => {
    await leavesNothing(t, async () => {
      await using guest = await attach({ qmp: lab.socket });
      const shadow = await guest.shadow();
      t.equal(await shadow.syscall('getpid'), 1n);
      await lab.hmp('gdbserver none');
      await t.rejects(async () => shadow[Symbol.asyncDispose](), { code: 'GUEST_GONE' });
      await guest.close();
    });
    t.equal(await lab.runState(), 'running');
    t.equal(await lab.text('echo alive'), 'alive');
  });

  await t.test('Ctrl-Z while it stands', (t) => notSuspended(t, lab));

  await t.test('QEMU is killed', (t) => ends(t, lab, async () => void process.kill(lab.pid, 'SIGKILL')));
});

/** Its lock is elsewhere; what shows is the name of its chardev. */
async function ofAnotherUser(t: Test, lab: TestGuest): Promise<void> {
  const labels = async () => ((await lab.qmp('query-chardev')) as { label: string }[]).map(({ label }) => label);
  const addChardev = (id: string) => lab.qmp('chardev-add', { id, backend: { type: 'null', data: {} } });
  const owner = spawn('sleep', ['1000'], { stdio: 'ignore' });
  t.teardown(() => owner.kill('SIGKILL'));
  const pid = owner.pid as number;
  const startTime = startTimeOf(pid);

  const reused = `penumbra-${pid}-${startTime - 1n}-1`;
  await addChardev(reused);
  await attachOnce(lab);
  t.notOk((await labels()).includes(reused), 'left behind by the one that had the pid before');

  const owned = `penumbra-${pid}-${startTime}-1`;
  await addChardev(owned);
  await refuses(t, { qmp: lab.socket }, 'BUSY', new RegExp(`is in use by process ${pid} \\(sleep`));
  t.ok((await labels()).includes(owned));

  const ended = once(owner, 'exit');
  owner.kill('SIGKILL');
  await ended;
  await attachOnce(lab);
  t.notOk((await labels()).includes(owned), 'left behind by a process that ended');
}

async function notSuspended(t: Test, lab: TestGuest): Promise<void> {
  const tool = ['sh', '-c', 'echo begun; read line; echo $line'];
  const child = spawn(process.execPath, [penumbra, 'run', '--qmp', lab.socket, '--budget', '0', '--', ...tool], {
    env: { ...process.env, NODE_OPTIONS: '' },
    // Should it be suspended after all.
    timeout: SUSPENDED_MS,
    killSignal: 'SIGKILL',
  });
  const output = { stdout: '', stderr: '' };
  child.stdin.on('error', () => undefined);
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk));
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk));
  const closed = once(child, 'close');
  await Promise.race([once(child.stdout, 'data'), closed]);
  t.equal(await lab.runState(), 'paused');
  child.kill('SIGTSTP');
  await Promise.race([once(child.stderr, 'data'), closed]);
  child.stdin.end('done\n');
  t.equal((await closed)[0], 0);
  t.match(output, { stdout: /^begun\ndone\n$/, stderr: /^penumbra: not suspended, .*\n$/ });
  t.equal(await lab.runState(), 'running');
  t.equal(await lab.text('echo alive'), 'alive');
}

async function attachOnce(lab: TestGuest): Promise<void> {
  await using guest = await attach({ qmp: lab.socket });
  await guest.processes();
}

t.test('a guest that is reset, and then shuts itself down', async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1', load: 'idle' });
  await lab.qmp('set-action', { reboot: 'reset' });
  await t.test('reset', (t) => ends(t, lab, () => lab.qmp('system_reset')));
  t.equal(await lab.runState(), 'running');
  await t.test('attached to while it boots', async (t) => {
    let processes = 0;
    for (const end = performance.now() + BOOT_MS; processes < 40 && performance.now() < end; await sleep(100)) {
      const guest = await attach({ qmp: lab.socket }).catch(() => undefined);
      processes = (await guest?.processes().catch(() => []))?.length ?? 0;
      await guest?.close();
    }
    t.ok(processes >= 40, 'it is up again');
  });
  // The answer and the end come in any order.
  const poweroff = () => lab.run('poweroff -f &').catch(() => undefined);
  await t.test('shut down', (t) => ends(t, lab, poweroff));
});

/** The guest is asked again and again, in a shadow and anew, while it ends: clear errors, and nothing hangs or stays. */
async function ends(t: Test, lab: TestGuest, end: () => Promise<unknown>): Promise<void> {
  await leavesNothing(t, async () => {
    const guest = await attach({ qmp: lab.socket });
    await guest.processes();
    const asked = askUntilRefused(guest);
    await sleep(20);
    await end();
    t.match(await asked, { code: 'GUEST_GONE' });
    await t.rejects(guest.processes(), { code: 'GUEST_GONE' }, 'and so from now on');
    await guest.close();
    await guest.close();
  });
}

async function askUntilRefused(guest: Guest): Promise<PenumbraError> {
  for (const end = performance.now() + 60_000; performance.now() < end; ) {
    try {
      await guest.use(async (shadow) => {
        await shadow.syscall('getpid');
        await sleep(2);
        await shadow.syscall('getppid');
      });
    } catch (error) {
      return error as PenumbraError;
    }
  }
  throw new Error('the guest goes on answering');
}

t.test('page tables made of noise', async () => {
  const pages = 48;
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'ram');
  const fd = openSync(path, 'w+');
  ftruncateSync(fd, pages * 4096);
  const native = new addon.Guest([{ gpa: 0n, size: BigInt(pages * 4096), fd, offset: 0n, name: 'ram' }]);
  const memory = new NativePhysicalMemory(native, [
    { gpa: 0n, size: BigInt(pages * 4096), fd, offset: 0n, name: 'ram' },
  ]);
  const reference = new RamFile(path);

  // Mostly tables that lead somewhere, of few indices, so that walks go deep; page addresses beyond RAM as well.
  const entry = fc.record({
    at: fc
      .tuple(fc.nat(pages - 1), fc.constantFrom(0, 1, 256, 510, 511))
      .map(([page, index]) => page * 4096 + index * 8),
    value: fc.oneof(
      fc
        .tuple(fc.nat(pages + 4), fc.constantFrom(0x63, 0x67, 0xe3, 0x1063, 0))
        .map(([page, flags]) => (BigInt(page) << 12n) | BigInt(flags)),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    ),
  });
  const index = fc.constantFrom(0n, 1n, 256n, 510n, 511n);
  const address = fc
    .tuple(index, index, index, index, index, fc.bigInt({ min: 0n, max: 4095n }))
    .map(([a, b, c, d, e, offset]) =>
      BigInt.asUintN(64, BigInt.asIntN(57, (a << 48n) | (b << 39n) | (c << 30n) | (d << 21n) | (e << 12n) | offset)),
    );
  await fc.assert(
    fc.asyncProperty(
      fc.array(entry, { minLength: 50, maxLength: 400 }),
      fc.array(address, { minLength: 1, maxLength: 30 }),
      fc.constantFrom<4 | 5>(4, 5),
      async (entries, addresses, levels) => {
        const bytes = Buffer.alloc(pages * 4096);
        for (const { at, value } of entries) bytes.writeBigUInt64LE(value, at);
        writeSync(fd, bytes, 0, bytes.length, 0);
        const view = memory.openVirtual(0n, levels);
        const walked = new WalkedMemory(reference, 0n, levels);
        for (const raw of addresses) {
          const va = levels === 5 ? raw : BigInt.asUintN(64, BigInt.asIntN(48, raw));
          const ours = view.translate(va);
          const inRam = (gpa: bigint | undefined) => gpa !== undefined && gpa < BigInt(bytes.length);
          const theirs = walked.translate(va);
          if (ours !== theirs && (inRam(ours) || inRam(theirs)))
            throw new Error(`0x${va.toString(16)}: ${ours} and ${theirs}`);
          const read = view.tryRead(va, 64);
          const expected = walked.tryRead(va, 64);
          if (expected === undefined ? read !== undefined : !read?.equals(expected))
            throw new Error(`read 0x${va.toString(16)}`);
          view.extents(va, va + 0x400000n < 2n ** 64n ? va + 0x400000n : 2n ** 64n - 1n);
        }
      },
    ),
    { numRuns: RUNS, seed: SEED },
  );
  reference.close();
  closeSync(fd);
  await native.close();
});
