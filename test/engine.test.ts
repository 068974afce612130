import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { addon } from '../src/binding.js';
import { PenumbraError } from '../src/errors.js';
import { attach, type EngineName, type Guest } from '../src/index.js';
import { missingFeatures } from '../src/schedule/hostFeatures.js';
import { kvmSpeed } from '../src/schedule/kvmSpeed.js';
import type { BatchStep } from '../src/shadow/batch.js';
import { NativeArgumentKind } from '../src/shadow/nativeCall.js';
import { rawAddress } from '../src/shadow/syscallArgument.js';
import type { Attempt, AttemptRequest } from './lab/attempts.js';
import { labGuest, type TestGuest } from './lab/driver.js';
import { lessKvm } from './lab/lessKvm.js';

// A guest boots, and programs are compiled.
t.setTimeout(600_000);

const root = fileURLToPath(new URL('../..', import.meta.url));
/** A KVM without hardware behind it does in seconds what takes milliseconds otherwise. */
const CALL_TIMEOUT = 60_000;
const run = promisify(execFile);

const attemptsProgram = fileURLToPath(new URL('lab/attempts.js', import.meta.url));

const hasKvm = isThere('/dev/kvm');

function isThere(device: string): boolean {
  try {
    return addon.kvmCpuid(device).length > 0;
  } catch {
    return false;
  }
}

function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  return folder;
}

function residentMiB(): number {
  return process.memoryUsage().rss / 2 ** 20;
}

t.test('programs for the shadow are position independent and built the same every time', async (t) => {
  const build = async (name: string, constant: string): Promise<string> => {
    const header = join(temporaryFolder(t), 'header');
    // It links for two addresses and fails where the code differs.
    await run('scripts/inshadow', [`native/inshadow/${name}.c`, constant, header], { cwd: root });
    return readFileSync(header, 'utf8');
  };
  for (const [name, constant] of [
    ['batch_runner', 'kBatchRunnerCode'],
    ['process_walk', 'kProcessWalkCode'],
  ] as const) {
    const built = await build(name, constant);
    t.equal(await build(name, constant), built);
    t.equal(readFileSync(join(root, `build/Release/obj/gen/${name}_code.h`), 'utf8'), built);
  }

  const folder = temporaryFolder(t);
  const script = join(root, 'scripts/inshadow');
  const fails = async (source: string, reason: RegExp): Promise<void> => {
    writeFileSync(join(folder, 'program.c'), source);
    execFileSync('cp', [join(root, 'native/inshadow/flat.ld'), folder]);
    const outcome = run(script, [join(folder, 'program.c'), 'kProgram', join(folder, 'header')], { cwd: root });
    await t.rejects(outcome, { stderr: reason } as unknown as Error, source);
  };
  await fails('int data; void run_batch(void) { data++; }', /must not have data/);
  await fails('extern void other(void); void run_batch(void) { other(); }', /undefined reference|must not have data/);
  await fails('void run_batch(void) { __asm__("movabs $run_batch, %rax"); }', /not position independent/);
});

const value = (number: bigint | number) => ({ kind: NativeArgumentKind.value, value: number });
const bytes = (text: string) => ({ kind: NativeArgumentKind.in, bytes: Buffer.from(`${text}\0`) });
const out = (size: number) => ({ kind: NativeArgumentKind.out, size });
const read = (size: number) => ({ kind: NativeArgumentKind.out, size, lengthIsResult: true });
const result = (step: number) => ({ kind: NativeArgumentKind.result, step });
const at = -100; // AT_FDCWD
const call = (nr: number, ...args: BatchStep['args']): BatchStep => ({ nr, args });

/** Calls whose answers only a change in the guest could change. */
function questions(guest: Guest): BatchStep[] {
  const pointers = Buffer.alloc(96);
  pointers.writeBigUInt64LE(5n, 8);
  pointers.writeBigUInt64LE(7n, 24);
  const open = call(257, value(at), bytes('/etc/passwd'), value(0), value(0));
  return [
    open,
    call(0, result(0), read(64), value(64)), // read
    call(5, result(0), out(144)), // fstat
    { ...call(0, result(0), read(16), value(16)), repeatUntil: 1 << 20 },
    call(8, result(0), value(0), value(0)), // lseek
    // readv into two places of one buffer, given with pointers to them
    call(
      19,
      result(0),
      {
        kind: NativeArgumentKind.inout,
        bytes: pointers,
        fixups: [
          { offset: 0, target: 48 },
          { offset: 16, target: 72 },
        ],
      },
      value(2),
    ),
    call(3, result(0)), // close
    call(3, result(0)), // EBADF
    call(257, value(at), bytes('/nowhere'), value(0), value(0)), // ENOENT
    call(0, result(8), read(64), value(64)), // not run
    call(63, out(390)), // uname
    call(39), // getpid
    { ...call(39), kind: 'direct' },
    call(89, bytes('/proc/self/exe'), read(100), value(100)), // readlink
    { ...call(0), nr: guest.kernel.requireSymbol('int_sqrt'), kind: 'function', args: [value(144)] },
    call(
      35,
      { kind: NativeArgumentKind.in, bytes: Buffer.from([5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) },
      value(0),
    ),
    call(39),
  ];
}

interface Answers {
  engine: string;
  reason: string;
  results: unknown;
}

async function ask(lab: TestGuest, engine: EngineName, device?: string): Promise<Answers> {
  const options = { qmp: lab.socket, engine, callTimeout: CALL_TIMEOUT, ...(device && { kvmDevice: device }) };
  await using guest = await attach(options);
  const results = await guest.use((shadow) => shadow.batch(questions(guest), { mayBlock: true }));
  const { engine: taken, engineReason } = await guest.info();
  return { engine: taken, reason: engineReason, results: results.map(comparable) };
}

/** st_atime of what was opened a moment ago is not compared. */
function comparable({
  value,
  out,
  blocked,
}: {
  value: bigint;
  out: (Buffer | undefined)[];
  blocked?: boolean;
}): unknown {
  const buffers = out.map((buffer) => (buffer?.length === 144 ? buffer.subarray(0, 72) : buffer)?.toString('latin1'));
  return { value, buffers, blocked: blocked === true };
}

t.test('engines in a guest', async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1' });
  const passwd = await lab.text('cat /etc/passwd; echo .');
  const unicorn = await ask(lab, 'unicorn');

  await t.test("the answers are the guest's", async (t) => {
    const results = unicorn.results as { value: bigint; buffers: (string | undefined)[]; blocked: boolean }[];
    const whole = passwd.slice(0, -1);
    t.equal(`${results[1]?.buffers[1]}${results[3]?.buffers[1]}`, whole);
    t.equal(results[5]?.buffers[1]?.slice(48, 53), whole.slice(0, 5));
    t.equal(results[5]?.buffers[1]?.slice(72, 79), whole.slice(5, 12));
    t.same(
      results.slice(7).map(({ value }) => value),
      [-9n, -2n, -2n, 0n, 1n, 1n, BigInt(results[13]?.buffers[1]?.length ?? 0), 12n, -4n, 1n],
    );
    t.same(results.map(({ blocked }) => blocked).indexOf(true), 15, 'nanosleep would have slept');
  });

  await t.test('both engines answer alike', { skip: !hasKvm && 'no /dev/kvm' }, async (t) => {
    const kvm = await ask(lab, 'kvm');
    t.equal(kvm.engine, 'kvm');
    t.equal(kvm.reason, 'asked for');
    t.same(kvm.results, unicorn.results);
  });

  await t.test(
    "faults are the guest kernel's, and a failed call leaves the engine whole",
    { skip: !hasKvm && 'no /dev/kvm' },
    async (t) => {
      await using guest = await attach({ qmp: lab.socket, engine: 'kvm', callTimeout: CALL_TIMEOUT });
      // The guest's own page fault handler and exception tables.
      t.equal(await guest.use((shadow) => shadow.syscall('stat', '/etc/passwd', rawAddress(1n))), -14n);
      await t.rejects(
        guest.use((shadow) => shadow.callFunction('panic')),
        { code: 'GUEST_BUG' } as unknown as Error,
      );
      t.equal(await guest.use((shadow) => shadow.syscall('getpid')), 1n);
    },
  );

  await t.test('the engine is chosen, and why is told', async (t) => {
    const auto = await ask(lab, 'auto', '/nonexistent/kvm');
    t.equal(auto.engine, 'unicorn');
    t.match(auto.reason, /^there is no KVM at \/nonexistent\/kvm/);
    t.same(auto.results, unicorn.results);
    const refused = (options: { engine: EngineName; kvmDevice?: string; instructionLimit?: number }) =>
      attach({ qmp: lab.socket, ...options });
    const code = (name: string, message: RegExp) => ({ code: name, message }) as unknown as Error;
    await t.rejects(
      refused({ engine: 'kvm', kvmDevice: '/nonexistent/kvm' }),
      code('UNSUPPORTED', /^there is no KVM at \/nonexistent\/kvm/),
    );
    await t.rejects(
      refused({ engine: 'kvm', kvmDevice: '/dev/null' }),
      code('UNSUPPORTED', /^\/dev\/null is not KVM$/),
    );
    await t.rejects(refused({ engine: 'kvm', instructionLimit: 1000 }), code('UNSUPPORTED', /counts no instructions/));
    await t.rejects(refused({ engine: 'qemu' }), code('UNSUPPORTED', /qemu is not there/));
  });

  await t.test('the guest does not wait when its code has changed', async (t) => {
    await using guest = await attach({ qmp: lab.socket, engine: 'unicorn' });
    const { kernel } = guest;
    const code = kernel.requireSymbol('do_syscall_64');
    const before = residentMiB();
    for (let change = 0; change < 3; change += 1) {
      const answer = await guest.use(async (shadow) => {
        await shadow.syscall('getpid');
        await shadow.write(code, await shadow.read(code, 8, kernel.root), kernel.root);
        return shadow.syscall('getpid');
      });
      t.equal(answer, 1n);
    }
    t.ok(residentMiB() - before < 100, 'translated code does not take much memory');
    t.ok(guest.counts.lastStandstill < 1000, `${guest.counts.lastStandstill} ms`);
  });

  await t.test('features that the host lacks are named', async (t) => {
    await using guest = await attach({ qmp: lab.socket, engine: 'unicorn' });
    // An empty processor lacks whatever this kernel uses; one that says yes to everything lacks nothing.
    const vcpu = { cr4: 1n << 12n } as Parameters<typeof missingFeatures>[1][number];
    t.ok(missingFeatures(guest.kernel, [vcpu], new Uint32Array()).includes('la57'));
    const all = [1, 7, 0x80000001].flatMap((leaf) => [leaf, 0, ...new Array<number>(4).fill(0xffffffff)]);
    t.same(missingFeatures(guest.kernel, [vcpu], Uint32Array.from(all)), []);
  });
});

t.test('a guest whose processor has what this host lacks', { skip: !hasKvm && 'no /dev/kvm' }, async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1', cpu: 'max' });
  {
    await using guest = await attach({ qmp: lab.socket, engine: 'unicorn' });
    t.equal((await guest.info()).kernel.pageTableLevels, 5);
  }
  const requests = (['kvm', 'auto'] as const).map(
    (engine): AttemptRequest => ({ options: { qmp: lab.socket, engine } }),
  );
  // Bit 16 of ECX of leaf 7, which some hosts have.
  const env = { ...process.env, NODE_OPTIONS: '', LD_PRELOAD: lessKvm(t), LESS_KVM_FEATURE: '7 2 16' };
  const input = requests.map((request) => JSON.stringify(request)).join('\n');
  const printed = execFileSync(process.execPath, [attemptsProgram], { input, env, encoding: 'utf8' });
  const [asked, chosen] = printed
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Attempt);
  const message = /^KVM on this host lacks what the guest's processor has: .*\bla57\b/;
  t.match(asked, { code: 'UNSUPPORTED', message });
  t.match(chosen, { engine: 'unicorn', pid: 1, release: lab.lab.release });
});

t.test('a KVM that may not be opened', async (t) => {
  const path = join(temporaryFolder(t), 'kvm');
  writeFileSync(path, '', { mode: 0o400 });
  // Root may open everything.
  const privileged = process.geteuid?.() === 0;
  const closed = privileged ? '/proc/1/environ' : path;
  if (privileged) process.seteuid?.(65534);
  try {
    t.throws(() => addon.kvmCpuid(closed), { code: 'PERMISSION' } as unknown as Error);
  } finally {
    if (privileged) process.seteuid?.(0);
  }
});

t.test('speed is measured once per host', { skip: !hasKvm && 'no /dev/kvm' }, async (t) => {
  const folder = join(temporaryFolder(t), 'not', 'yet', 'there');
  const first = await kvmSpeed('/dev/kvm', folder);
  t.ok(first.guestRate > 1e5);
  t.ok(first.hostRate > first.guestRate / 2);
  t.same(await kvmSpeed('/dev/kvm', folder), first, 'remembered');
  const file = join(folder, 'kvm.json');
  const kept = JSON.parse(readFileSync(file, 'utf8')) as { speed: object };
  writeFileSync(file, JSON.stringify({ host: 'another', speed: { ...kept.speed, guestRate: 1 } }));
  t.not((await kvmSpeed('/dev/kvm', folder)).guestRate, 1, 'of another host it is measured anew');
  for (const damaged of ['', '{', '[]', 'null', '{"host":1}', JSON.stringify({ ...kept, speed: { hostRate: -1 } })]) {
    writeFileSync(file, damaged);
    t.ok((await kvmSpeed('/dev/kvm', folder)).hostRate > 0, 'a damaged file is as good as none');
  }
  t.ok((await kvmSpeed('/dev/kvm', '/proc/nowhere')).guestRate > 0, 'nor is a folder needed');
  await t.rejects(kvmSpeed('/dev/null', folder), PenumbraError);
});
