import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { chmod, mkdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { cpioArchive } from '../../src/lab/cpio.js';
import {
  completeSpec,
  LAB_KERNELS,
  LAB_LOADS,
  LabGuest,
  type LabSpec,
  labDown,
  labList,
  labOpen,
  labUp,
} from '../../src/lab/index.js';
import { labGuest } from './driver.js';

const LONG = process.env.PENUMBRA_LONG !== undefined;

t.test('an archive is what cpio takes for one', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  t.teardown(() => rm(folder, { recursive: true }));
  const content = Buffer.from([0, 1, 2, 0xff, 0x0a]);
  const archive = cpioArchive([
    { kind: 'folder', name: 'a', mode: 0o750 },
    { kind: 'file', name: 'a/odd', mode: 0o640, content },
    { kind: 'link', name: 'a/link', target: 'odd' },
  ]);
  execFileSync('busybox', ['cpio', '-i'], { cwd: folder, input: archive, stdio: ['pipe', 'ignore', 'pipe'] });
  t.same(readFileSync(join(folder, 'a/odd')), content);
  t.equal(statSync(join(folder, 'a/odd')).mode & 0o777, 0o640);
  t.equal(statSync(join(folder, 'a')).mode & 0o777, 0o750);
  t.equal(readlinkSync(join(folder, 'a/link')), 'odd');
});

t.test('a spec that cannot be is refused by its field', async (t) => {
  t.match(completeSpec({ load: 'forks' }), { kernel: '6.1', load: 'forks', memoryMiB: 256 });
  const wrong: [object, RegExp][] = [
    [{ kernel: '2.6' }, /kernel is one of 5.10, 6.1, 6.12, not 2.6/],
    [{ vcpus: 3 }, /vcpus/],
    [{ machine: 'microvm', vcpus: 2 }, /vcpus of an emulated microvm is one of 1, not 2/],
    [{ memoryMiB: 1.5 }, /memoryMiB lies between 128 and 16384, not 1.5/],
  ];
  for (const [spec, message] of wrong) {
    t.throws(() => completeSpec(spec), { code: 'BAD_ARGUMENT', message });
  }
});

t.test('one guest, asked for everything', async (t) => {
  await using guest = await labGuest(t, { kernel: '6.1', load: 'idle' });

  await t.test('commands answer byte for byte', async (t) => {
    const everyByte = Buffer.from(Array.from({ length: 255 }, (_, index) => index + 1).filter((byte) => byte !== 0x27));
    const echo = await guest.run(Buffer.concat([Buffer.from("printf %s '"), everyByte, Buffer.from("'")]));
    t.same(echo.stdout, everyByte);
    t.same((await guest.run('printf "\\0"')).stdout, Buffer.from([0]));
    t.match(await guest.run('echo out; echo err >&2; exit 3'), { status: 3 });
    t.equal((await guest.run('echo err >&2')).stderr.toString(), 'err\n');
    t.equal(await guest.text('for i in 1 2 3\ndo echo $i\ndone'), '1\n2\n3');
    t.same((await guest.run('cat /bin/busybox')).stdout, readFileSync('/bin/busybox'));
    await t.rejects(guest.run('a\0b'), { code: 'BAD_ARGUMENT' });
  });

  await t.test('a late answer is not taken for the next', async (t) => {
    await t.rejects(guest.run('sleep 0.2; echo late', 50), { code: 'TIMEOUT' });
    t.equal(await guest.text('echo next'), 'next');
  });

  await t.test('it has something of everything', async (t) => {
    t.equal(await guest.text('uname -r'), guest.lab.release);
    t.match(await guest.text('ps -o user,args'), /alice +sleep 100101\nbob +sleep 100102\n/);
    t.match(await guest.text('ps -o stat,args'), /Z +\[sh\]/);
    t.match(await guest.text('netstat -tan'), /127.0.0.1:8080 .*LISTEN.*:7001 .*ESTABLISHED/s);
    t.match(await guest.text('cat /proc/net/unix'), / \/dev\/log$/m);
    t.match((await guest.run('echo /srv/tree/*')).stdout.toString('latin1'), /latin-été/);
    t.match(await guest.text('lsmod'), /^virtio_blk /m);
    t.match(await guest.text('ls -l /proc/[1-9]*/fd 2> /dev/null || :'), /\/tmp\/deleted \(deleted\)/);
    t.equal(await guest.text('wget -qO - http://127.0.0.1:8080/'), 'hello from the lab');
  });

  await t.test('the truth monitor', async (t) => {
    const text = BigInt(`0x${(await guest.text('grep " T _text$" /proc/kallsyms')).split(' ')[0]}`);
    t.equal((await guest.kernelGpa(text)) % 4096n, 0n);
    t.match(await guest.hmp('gva2gpa 0'), /Unmapped/);
    const registers = await guest.stopIn('kernel');
    t.equal(await guest.runState(), 'paused');
    t.ok(registers.get('cr3'));
    t.ok((registers.get('rip') ?? 0n) >= text, 'the kernel runs its own code');
    t.ok(registers.has('gsBase'));
    t.equal(await guest.ramHash(), await guest.ramHash());
    const paused = await guest.ramHash();
    await guest.qmp('cont');
    await guest.text('date');
    await guest.qmp('stop');
    t.not(await guest.ramHash(), paused);
    await guest.qmp('cont');
    t.same(
      guest.events.slice(-4).map(({ event }) => event),
      ['STOP', 'RESUME', 'STOP', 'RESUME'],
    );
    await t.rejects(guest.qmp('no-such-command'), { message: /CommandNotFound/ });
  });

  await t.test('nothing stays of it', async (t) => {
    await guest.stop();
    t.notOk(existsSync(guest.lab.folder));
    t.notOk(guest.lab.isRunning);
    await t.rejects(guest.run('true'));
  });
});

t.test('a guest does not outlive a killed process', async (t) => {
  // A folder of its own: in the common one, any guest that another test starts would remove what is left.
  ownFolder(t, 'TMPDIR');
  const module = new URL('../../src/lab/index.js', import.meta.url).href;
  const program = `import { LabGuest } from '${module}'; const g = await LabGuest.start();
    console.log(JSON.stringify({ pid: g.pid, folder: g.folder })); await g.run('sleep 1000', 1e6);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const line = await new Promise<Buffer>((resolve) => child.stdout.once('data', resolve));
  const { pid, folder } = JSON.parse(line.toString()) as { pid: number; folder: string };
  child.kill('SIGKILL');
  for (let polls = 0; existsSync(`/proc/${pid}`) && polls < 1000; polls += 1) await sleep(10);
  t.notOk(existsSync(`/proc/${pid}`), 'QEMU has ended');
  t.ok(existsSync(folder), 'nobody was there to remove its folder');
  await using _next = await labGuest(t);
  t.notOk(existsSync(folder), 'which the next guest does');
});

t.test('lab up, ls, down', async (t) => {
  const runtime = ownFolder(t, 'XDG_RUNTIME_DIR');

  t.same(await labList(), []);
  const up = await labUp('one', { ram: 'file' });
  t.teardown(() => labDown('one').catch(() => undefined));
  t.match(up, { name: 'one', state: 'running', spec: { ram: 'file' } });
  t.same(await labList(), [up]);
  await t.rejects(labUp('one'), { code: 'BUSY' });

  const guest = await labOpen('one');
  t.equal((await guest.run('hostname')).stdout.toString(), 'lab\n');
  process.kill(up.pid, 'SIGKILL');
  while (guest.isRunning) await sleep(5);
  t.match(await labList(), [{ name: 'one', state: 'gone' }]);
  await t.rejects(labOpen('one'), { code: 'NO_GUEST' });
  await labDown('one');
  t.same(await labList(), []);

  await t.rejects(labDown('one'), { code: 'NO_GUEST' });
  await t.rejects(labUp('../one'), { code: 'BAD_ARGUMENT' });
  await chmod(join(runtime, 'penumbra'), 0o777);
  await t.rejects(labList(), { code: 'PERMISSION' });
  await chmod(join(runtime, 'penumbra'), 0o700);
  await mkdir(join(runtime, 'penumbra/lab/cut-short'));
  await labDown('cut-short');
});

t.test('guests of every kind', async (t) => {
  for (const spec of LONG ? everyKind() : someKinds()) {
    await t.test(Object.values(spec).join(' '), async (t) => {
      await using guest = await labGuest(t, spec);
      t.equal(await guest.text('nproc'), String(spec.vcpus));
      t.equal(await guest.text('uname -r'), guest.lab.release);
      if (guest.spec.diskMiB > 0) t.equal(await guest.text('cat /data/file'), 'on the disk');
      const text = (await guest.text('grep " T _text$" /proc/kallsyms')).split(' ')[0];
      if (guest.spec.kaslr) t.match(text, /^ffffffff[89ab]/);
      else t.equal(text, 'ffffffff81000000');
      t.match(await guest.text('dmesg'), guest.spec.pti ? /page tables isolation: enabled/ : /Linux version/);
      t.notMatch(await guest.text('dmesg'), /Oops|Call Trace/);
    });
  }
});

function someKinds(): Partial<LabSpec>[] {
  return [
    { kernel: '5.10', vcpus: 1, cpu: 'max', load: 'busy', pti: false, ram: 'private', emulator: 'system' },
    { kernel: '6.12', vcpus: 2, cpu: 'max', load: 'forks', pti: true, ram: 'file', emulator: 'qemu10', diskMiB: 16 },
    { kernel: '6.12', vcpus: 1, cpu: 'qemu64', load: 'idle', kaslr: false, emulator: 'system' },
    { kernel: '5.10', vcpus: 1, cpu: 'max', load: 'idle', machine: 'microvm' },
  ];
}

function everyKind(): Partial<LabSpec>[] {
  const kinds: Partial<LabSpec>[] = [];
  for (const emulator of ['system', 'qemu10'] as const) {
    for (const kernel of LAB_KERNELS) {
      for (const load of LAB_LOADS) {
        kinds.push({ kernel, vcpus: 1, cpu: 'qemu64', load, pti: true, emulator });
        kinds.push({ kernel, vcpus: 2, cpu: 'max', load, pti: false, emulator, ram: 'file', diskMiB: 16 });
      }
    }
  }
  return kinds;
}

t.test('a guest that does not come up says why', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), `penumbra-${'x'.repeat(100)}-`));
  await t.rejects(LabGuest.start({}, { folder }), { code: 'BAD_ARGUMENT', message: /too long a path/ });
  t.notOk(existsSync(folder));
});

/** Makes an environment variable name a new folder, for the time of the test. */
function ownFolder(t: Test, variable: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  const before = process.env[variable];
  process.env[variable] = folder;
  t.teardown(async () => {
    if (before === undefined) delete process.env[variable];
    else process.env[variable] = before;
    await rm(folder, { recursive: true });
  });
  return folder;
}
