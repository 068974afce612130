import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { addon, type NativeBatchResult, type NativeGuest } from '../src/binding.js';
import { PenumbraError } from '../src/errors.js';
import { attach, type Guest } from '../src/index.js';
import { sampleProcessFiles } from '../src/inspect/processFiles.js';
import { decodeRecords, processWalk, roomForOne, walkQuestion } from '../src/inspect/processWalk.js';
import type { Kernel } from '../src/kernel/kernel.js';
import { type BatchStep, decodeBatch, encodeBatch } from '../src/shadow/batch.js';
import { CallError, worthAnotherStop } from '../src/shadow/failure.js';
import { NativeArgumentKind } from '../src/shadow/nativeCall.js';
import { bytesOf, out, StepList, value } from '../src/shadow/stepList.js';
import { stubs } from '../src/shadow/stubs.js';
import { assemble } from './lab/assembler.js';
import { labGuest, type TestGuest } from './lab/driver.js';
import { stopBetweenUpdates } from './lab/pause.js';

// A guest boots under emulation.
t.setTimeout(300_000);

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
const RUNS = LONG ? 5000 : 300;
const STRAY_CALLS = LONG ? 2000 : 150;
/** Runs are the same every time unless the long ones. */
const SEED = LONG ? Date.now() & 0x7fffffff : 20261121;
const CALL_TIMEOUT_MS = 100;

/**
 * Guest code that makes the batch runner's count of calls grow for ever: it returns to the runner's only page, two pages
 * below that of struct runner_state (native/shadow/scratch.h), where `calls` is at 0x148 (native/inshadow/batch_runner.h).
 */
const FORGES_CALLS = 'mov rax, [rsp]; and rax, 0xfffffffffffff000; again: inc qword ptr [rax + 0x2148]; jmp again';

t.test('stubs are what their source says', async (t) => {
  for (const [name, stub] of Object.entries(stubs)) {
    t.same(await assemble(stub.source, 64), stub.bytes, name);
  }
  // mov rax, [rip + displacement]: the instruction after it begins 4 bytes behind the displacement.
  const { bytes, data } = stubs.clock;
  const displacement = bytes.indexOf(Buffer.from('488b05', 'hex')) + 3;
  t.equal(displacement + 4 + bytes.readUInt32LE(displacement), data);
});

/** A guest of which only the RAM is there, and that of zeros: it checks batches, and has no shadow to run them in. */
function guestWithoutShadow(t: Test): NativeGuest {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  const fd = openSync(join(folder, 'ram'), 'w+');
  ftruncateSync(fd, 1 << 20);
  const guest = new addon.Guest([{ gpa: 0n, size: 1n << 20n, fd, offset: 0n, name: 'ram' }]);
  closeSync(fd);
  t.teardown(async () => {
    await guest.close().catch(() => undefined);
    rmSync(folder, { recursive: true });
  });
  return guest;
}

/** Whether the executor takes a batch for well-formed. */
async function isAccepted(guest: NativeGuest, batch: Buffer): Promise<boolean> {
  try {
    await guest.run(batch);
  } catch (error) {
    if (!(error instanceof PenumbraError)) throw error;
    if (error.code === 'BAD_ARGUMENT' && error.message === 'malformed batch of calls') return false;
    if (error.code === 'INTERNAL' && error.message === 'no shadow was made') return true;
    throw error;
  }
  throw new Error('a batch ran without a shadow');
}

const word64 = fc.oneof(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }), fc.maxSafeInteger());
const payload = fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes));

/** Arguments of step `index`: only results of earlier ones can be used. */
function anyArgument(index: number): fc.Arbitrary<BatchStep['args'][number]> {
  const plain = [
    fc.record({ kind: fc.constant(NativeArgumentKind.value), value: word64 }),
    fc.record({ kind: fc.constantFrom(NativeArgumentKind.in, NativeArgumentKind.inout), bytes: payload }),
    fc.record({ kind: fc.constant(NativeArgumentKind.out), size: fc.nat(5000), lengthIsResult: fc.boolean() }),
    fc.record({
      kind: fc.constant(NativeArgumentKind.in),
      bytes: fc.constant(Buffer.alloc(32)),
      fixups: fc.array(fc.record({ offset: fc.nat(24), target: fc.nat(32) }), { maxLength: 3 }),
    }),
  ];
  if (index === 0) return fc.oneof(...plain);
  return fc.oneof(...plain, fc.record({ kind: fc.constant(NativeArgumentKind.result), step: fc.nat(index - 1) }));
}

const anyBatch = fc.nat(12).chain((count) =>
  fc.tuple(
    ...Array.from(
      { length: count },
      (_, index) =>
        fc.record({
          nr: fc.nat(500),
          args: fc.array(anyArgument(index), { maxLength: 6 }),
        }) as fc.Arbitrary<BatchStep>,
    ),
  ),
);

t.test('batches', async (t) => {
  const guest = guestWithoutShadow(t);

  await t.test('what is encoded is well-formed', async () => {
    await fc.assert(
      fc.asyncProperty(anyBatch, async (steps) => isAccepted(guest, encodeBatch(steps))),
      { numRuns: RUNS, seed: SEED },
    );
  });

  await t.test('malformed ones are refused', async (t) => {
    const header = (...words: number[]) => Buffer.from(Uint32Array.from(words).buffer);
    const one = encodeBatch([
      { nr: 0, args: [{ kind: 1, bytes: Buffer.alloc(16), fixups: [{ offset: 0, target: 8 }] }] },
    ]);
    const changed = (at: number, word: number) => {
      const bytes = Buffer.from(one);
      bytes.writeUInt32LE(word, at);
      return bytes;
    };
    const [step, argument, fixup] = [16, 40, 72];
    const wrong: Record<string, Buffer> = {
      'nothing at all': Buffer.alloc(0),
      'half a header': one.subarray(0, 12),
      'steps that are not there': header(1, 0, 0, 0),
      'more than memory can hold': header(0xffffffff, 0xffffffff, 0xffffffff, 0),
      'seven arguments': changed(step + 12, 7),
      'arguments beyond the last': changed(step + 16, 1),
      'arguments that wrap around': changed(step + 16, 0xffffffff),
      'an unknown kind': changed(argument, 5),
      'contents beyond the end': changed(argument + 8, 17),
      'contents that wrap around': changed(argument + 12, 0xfffffff8),
      'a result of the step itself': changed(argument, NativeArgumentKind.result),
      'fixups beyond the last': changed(argument + 28, 2),
      'a fixup over the end': changed(fixup, 9),
      'a fixup that wraps around': changed(fixup, 0xfffffffc),
      'a target beyond the end': changed(fixup + 4, 17),
      'the end cut off': one.subarray(0, one.length - 1),
    };
    t.ok(await isAccepted(guest, one));
    for (const [name, bytes] of Object.entries(wrong)) t.notOk(await isAccepted(guest, bytes), name);
  });

  await t.test('damaged ones are refused or as good as any', async () => {
    const damage = fc.array(fc.tuple(fc.nat(), fc.oneof(fc.nat(16), fc.nat(0xffffffff))), {
      minLength: 1,
      maxLength: 8,
    });
    const damaged = fc.tuple(anyBatch, damage).map(([steps, changes]) => {
      const bytes = encodeBatch(steps);
      for (const [at, word] of changes) bytes.writeUInt32LE(word, at % (bytes.length - 3));
      return bytes;
    });
    const noise = fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes));
    await fc.assert(
      fc.asyncProperty(fc.oneof(damaged, noise), async (bytes) => void (await isAccepted(guest, bytes))),
      { numRuns: RUNS, seed: SEED },
    );
  });

  await t.test('answers are put together', async (t) => {
    const steps: BatchStep[] = [
      {
        nr: 0,
        args: [
          { kind: 0, value: 3 },
          { kind: 2, size: 4 },
        ],
      },
      { nr: 0, args: [{ kind: 2, size: 4 }] },
    ];
    const result: NativeBatchResult = {
      values: BigInt64Array.from([4n, -2n]),
      blocked: Uint32Array.from([1]),
      // The second buffer of the first step came in two pieces; the third row is of no step there is.
      outs: Uint32Array.from([0, 1, 0, 2, 0, 1, 2, 2, 7, 9, 0, 1]),
      bytes: Buffer.from('abcd'),
    };
    t.strictSame(decodeBatch(steps, result), [
      { value: 4n, out: [undefined, Buffer.from('abcd')] },
      { value: -2n, out: [], blocked: true },
    ]);
  });

  await t.test('a guest that was given back answers nothing', async (t) => {
    const gone = guestWithoutShadow(t);
    t.equal(gone.read(0n, 4).length, 4);
    const asked = [gone.statistics(), gone.close(), gone.run(encodeBatch([]))];
    const [before, closed, after] = await Promise.allSettled(asked);
    t.match(before, { reason: { code: 'INTERNAL', message: 'no shadow was made' } });
    t.match(closed, { status: 'fulfilled' });
    t.match(after, { reason: { code: 'BAD_ARGUMENT', message: 'the guest is detached' } });
    t.throws(() => gone.read(0n, 4), { code: 'BAD_ARGUMENT', message: 'the guest is detached' });
    t.throws(() => gone.translate(0n, 4, 0n), { code: 'BAD_ARGUMENT' });
    await t.rejects(gone.enter(1000, false), { code: 'BAD_ARGUMENT' });
  });
});

t.test('what a walk over processes found', async (t) => {
  const header = (nameLength: number, commandLength: number) =>
    Buffer.concat([
      Buffer.from(Int32Array.of(7, 1, 5, -1, 1000, 100, 0x400000, 1, 0, 120, 115, 3, 2).buffer),
      Buffer.from(Uint32Array.of((136 << 20) | 258, nameLength, commandLength).buffer),
      Buffer.from(BigUint64Array.of(1_239_999_999n, 20_000_000n, 5_000_000_000n, 10n, 4n).buffer),
    ]);
  const record = Buffer.concat([header(3, 2), Buffer.from('a )b\0\0\0\0')]);
  const found = {
    pid: 7,
    stat: {
      ...{ comm: Buffer.from('a )'), state: 'S', ppid: 1, pgrp: 5, session: -1, tty: 0x108802, flags: 0x400000 },
      ...{ utimeTicks: 123, stimeTicks: 2, priority: 20, nice: -5, threads: 3, startTicks: 500, vsize: 40960 },
      ...{ rssPages: 4, processor: 2 },
    },
    owner: { uid: 1000, gid: 100 },
    commandLine: Buffer.from('b\0'),
  };
  t.same(decodeRecords(Buffer.concat([record, record])), [found, found]);
  t.same(decodeRecords(Buffer.alloc(0)), []);
  const malformed = { code: 'CORRUPT', message: /list of processes is malformed/ };
  t.throws(() => decodeRecords(record.subarray(0, 20)), malformed, 'half a header');
  t.throws(() => decodeRecords(record.subarray(0, 106)), malformed, 'a record cut short');
  t.throws(() => decodeRecords(Buffer.concat([header(0xffffffff, 0xffffffff), record])), malformed);
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
      try {
        decodeRecords(Buffer.from(bytes));
      } catch (error) {
        if (!(error instanceof PenumbraError) || error.code !== 'CORRUPT') throw error;
      }
    }),
    { numRuns: RUNS, seed: SEED },
  );
});

t.test('which failures are worth another stop', async (t) => {
  const kernel = { symbolAt: () => undefined } as unknown as Kernel;
  const failure = (code: string, stopClass: 'user' | 'kernel') =>
    new CallError({ code, message: '', address: 0n, callers: new BigUint64Array() }, 'read', stopClass, kernel);
  const patience = (error: unknown) => {
    let attempt = 0;
    while (attempt < 1000 && worthAnotherStop(error, attempt)) attempt += 1;
    return attempt;
  };
  t.equal(patience(failure('LOCKED', 'user')), 100);
  t.equal(patience(failure('WOULD_BLOCK', 'kernel')), 20);
  t.equal(patience(failure('WOULD_BLOCK', 'user')), 6);
  t.equal(patience(failure('ENGINE', 'kernel')), 0);
  t.equal(patience(new PenumbraError('GUEST_GONE', '')), 0);
  t.equal(patience(new Error('of somebody else')), 0);
});

t.test('one paused guest, and every way in which a call can end', async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1', load: 'idle' });
  await stopBetweenUpdates(lab, async () => {
    await using guest = await attach({ qmp: lab.socket });
    await guest.processes();
  });
  const before = await stateOf(lab);
  await using guest = await attach({ qmp: lab.socket, callTimeout: CALL_TIMEOUT_MS });
  const text = kernelText(guest.kernel);
  const pids = (await guest.processes()).map(({ pid }) => pid);
  t.ok(pids.length > 20);

  /** The call ends as expected, the shadow is of no use any more, and the next one is as if nothing had happened. */
  const endsWith = (
    name: string,
    code: string,
    message: RegExp,
    call: (guest: Guest) => Promise<unknown>,
    from = guest,
  ) =>
    t.test(name, async (t) => {
      await t.rejects(call(from), { code, message });
      t.same(
        (await from.processes()).map(({ pid }) => pid),
        pids,
      );
    });
  const inShadow =
    (steps: (shadow: Awaited<ReturnType<Guest['shadow']>>) => Promise<unknown>) => async (guest: Guest) => {
      await using shadow = await guest.shadow();
      await steps(shadow);
    };
  const calls = (target: string | bigint, ...args: bigint[]) =>
    inShadow((shadow) => shadow.callFunction(target, ...args));

  const second = { sec: 1n, nsec: 0n };
  await endsWith('a sleep that signals end', 'WOULD_BLOCK', /^nanosleep: the call would sleep/, (guest) =>
    guest.use((shadow) => shadow.syscall('nanosleep', second)),
  );
  await endsWith('a sleep that nothing ends', 'WOULD_BLOCK', /would sleep/, calls('msleep', 1000n));
  const lock = guest.kernel.requireSymbol('pidmap_lock');
  await endsWith(
    'a lock that is held',
    'LOCKED',
    /needs a lock that the guest holds \(.*spin_lock_slowpath\)/,
    inShadow(async (shadow) => {
      await shadow.callFunction('_raw_spin_lock', lock);
      await shadow.callFunction('_raw_spin_lock', lock);
    }),
  );
  await endsWith(
    'an address that is not mapped',
    'GUEST_FAULT',
    /unmapped address 0xffff[0-9a-f]+/,
    calls(0xffffc12345678000n),
  );
  await endsWith('an address that cannot be', 'GUEST_FAULT', /CPU exception 13/, calls(0x8000_0000_0000_0000n));
  await endsWith('a write to kernel text', 'GUEST_FAULT', /unmapped|exception/, calls('memset', text.address, 0n, 16n));
  await endsWith('a panic', 'GUEST_BUG', /reported a bug during the call \(panic\)/, calls('panic', 0n));
  await endsWith('a BUG', 'GUEST_BUG', /ran into a BUG or WARN/, calls(text.find('0f0b')));
  await endsWith('a device', 'DEVICE_ACCESS', /needs a device of the guest \(at 0x80\)/, calls(text.find('e680')));
  await endsWith('a halt', 'GUEST_FAULT', /halted the CPU/, calls(text.find('f4')));
  await endsWith('a loop, by time', 'WATCHDOG', /ran out of its time/, calls(text.find('ebfe')));
  await t.test('a loop that counts itself as calls, by time', async (t) => {
    const start = performance.now();
    const code = await assemble(FORGES_CALLS, 64);
    const address = guest.kernel.requireSymbol('msleep');
    const forge = inShadow(async (shadow) => {
      await shadow.write(address, code);
      await shadow.callFunction(address);
    });
    await t.rejects(forge(guest), { code: 'WATCHDOG', message: /ran out of its time/ });
    const limits = (performance.now() - start) / CALL_TIMEOUT_MS;
    // 30, but a loaded machine may let it make no progress for a while.
    t.ok(limits > 3 && limits < 60, `after ${limits.toFixed(1)} times as long as a call may take`);
    t.equal(await guest.use((shadow) => shadow.syscall('getpid')), 1n);
  });
  await endsWith(
    'a refused call',
    'REFUSED',
    /^pause: waits for a signal/,
    inShadow((shadow) => shadow.syscall('pause')),
  );
  await endsWith('an unknown function', 'NO_SYMBOL', /no_such_function/, calls('no_such_function'));

  await t.test('stray system calls', async (t) => {
    const random = fc.sample(strayCall, { numRuns: STRAY_CALLS, seed: SEED });
    const ends: Record<string, number> = {};
    for (const { nr, args } of random) {
      await using shadow = await guest.shadow();
      const end = await shadow.batch([{ nr, args }]).then(
        ([result]) => (result!.value < 0n ? 'errno' : 'value'),
        (error: unknown) => (error instanceof PenumbraError ? error.code : 'INTERNAL'),
      );
      ends[end] = (ends[end] ?? 0) + 1;
    }
    t.comment(`${random.length} stray calls: ${JSON.stringify(ends)}`);
    t.notOk(ends['INTERNAL']);
    t.notOk(ends['ENGINE']);
    t.ok((ends['value'] ?? 0) > 0);
    t.ok((ends['errno'] ?? 0) > 0);
    t.same(
      (await guest.processes()).map(({ pid }) => pid),
      pids,
    );
  });

  await t.test('a walk over processes that hands them over a few at a time', async (t) => {
    const walk = processWalk(guest.kernel)!;
    const all = await guest.ask(walkQuestion(walk));
    t.same(await guest.ask(walkQuestion(walk, roomForOne + 500)), all);
    t.same((await guest.ask(walkQuestion(walk, roomForOne - 1)))?.processes, [], 'no room');
  });

  await t.test('a walk over processes that is told nonsense ends', async (t) => {
    const walk = processWalk(guest.kernel)!;
    const ask = (told: Buffer) => guest.ask(walkQuestion(told));
    t.same(
      (await ask(walk))?.processes.map(({ pid }) => pid).sort((a, b) => a - b),
      pids,
    );
    const ends: Record<string, number> = {};
    for (const [at, word] of fc.sample(nonsense, { numRuns: STRAY_CALLS / 2, seed: SEED })) {
      const told = Buffer.from(walk);
      told.writeInt32LE(word, at);
      const end = await ask(told).then(
        (sample) => (sample === undefined ? 'none' : 'answer'),
        (error: unknown) => (error instanceof PenumbraError ? error.code : String(error)),
      );
      ends[end] = (ends[end] ?? 0) + 1;
    }
    t.comment(`${JSON.stringify(ends)}`);
    t.notOk(Object.keys(ends).some((end) => end.startsWith('Error') || end === 'INTERNAL' || end === 'ENGINE'));
    t.ok((ends['none'] ?? 0) > 0);
    t.ok((ends['GUEST_FAULT'] ?? 0) > 0);
    t.same((await ask(walk))?.processes.length, pids.length);
  });

  await t.test('a walk over processes has those as well that a hooked system call hides', async (t) => {
    await using shadow = await guest.shadow();
    // xor eax, eax; ret
    await shadow.write(guest.kernel.requireSymbol('__x64_sys_getdents64'), Buffer.from('31c0c3', 'hex'));
    const list = new StepList();
    const read = walkQuestion(processWalk(guest.kernel)!)(list);
    const walked = read(await shadow.batch(list.steps, { mayBlock: true }));
    t.same(
      walked?.processes.map(({ pid }) => pid),
      pids,
    );
    t.same((await sampleProcessFiles(shadow)).processes, []);
  });

  await t.test('a shadow that cannot be used any more says so', async (t) => {
    await using shadow = await guest.shadow();
    await t.rejects(shadow.callFunction('panic', 0n), { code: 'GUEST_BUG', call: 'function' });
    await t.rejects(shadow.syscall('getpid'), { code: 'BAD_ARGUMENT', message: 'the shadow is closed' });
  });

  await t.test('after a sleep that signals end the same shadow goes on', async (t) => {
    await using shadow = await guest.shadow();
    const pid = await shadow.syscall('getpid');
    await t.rejects(shadow.syscall('nanosleep', second), { code: 'WOULD_BLOCK' });
    t.equal(await shadow.syscall('getpid'), pid);
    const list = new StepList();
    list.add(
      'nanosleep',
      { kind: NativeArgumentKind.in, bytes: Buffer.from(BigInt64Array.of(1n, 0n).buffer) },
      out(16),
    );
    const stat = list.stat(-100, Buffer.from('/proc/1/stat'), 0);
    const results = await shadow.batch(list.steps, { mayBlock: true });
    t.match(results[0], { blocked: true, value: -4n }, 'EINTR');
    t.equal(results[stat]?.value, 0n);
    const pending = /^SigPnd:\t0+$/m;
    t.match(await readText(shadow, '/proc/1/status'), pending, 'nothing is left of the signal');
  });

  await t.test('a failed step takes those with it that need it', async (t) => {
    await using shadow = await guest.shadow();
    const list = new StepList();
    const missing = list.open(-100, Buffer.from('/no/such/file'), 0);
    const read = list.readOnce(missing, 10);
    const pid = list.add('getpid');
    const results = await shadow.batch(list.steps);
    t.equal(results[missing.step]?.value, -2n);
    t.equal(results[read]?.value, -2n, 'with the same error');
    t.equal(bytesOf(results, read), undefined);
    t.equal(results[pid]?.value, 1n);
  });

  await t.test('arguments that are too large for a shadow', async (t) => {
    await using shadow = await guest.shadow();
    await t.rejects(shadow.batch([{ nr: 0, args: [value(0), out(16 << 20)] }]), {
      code: 'BAD_ARGUMENT',
      message: /do not fit/,
    });
    t.equal(await shadow.syscall('getpid'), 1n);
  });

  await guest.close();
  await using limited = await attach({ qmp: lab.socket, instructionLimit: 2_000_000 });
  await endsWith(
    'a loop, by instructions',
    'WATCHDOG',
    /out of its time or instructions/,
    calls(text.find('ebfe')),
    limited,
  );
  await limited.close();

  t.same(await stateOf(lab), before, 'the guest is as it was found: paused, RAM and registers unchanged');
  await lab.qmp('cont');
  t.equal(await lab.text('echo alive'), 'alive');
});

/** All that a paused guest consists of. */
async function stateOf(lab: TestGuest): Promise<object> {
  return { state: await lab.runState(), ram: await lab.ramHash(), registers: [...(await lab.registers())] };
}

function kernelText(kernel: Kernel): { address: bigint; find(hex: string): bigint } {
  const address = kernel.requireSymbol('_stext');
  const code = kernel.virtual.read(address, Number(kernel.requireSymbol('_etext') - address));
  const find = (hex: string): bigint => {
    const at = code.indexOf(Buffer.from(hex, 'hex'));
    if (at < 0) throw new Error(`the kernel's text has no ${hex}`);
    return address + BigInt(at);
  };
  return { address, find };
}

async function readText(
  shadow: { batch(steps: readonly BatchStep[]): Promise<unknown> },
  path: string,
): Promise<string> {
  const list = new StepList();
  const read = list.readOnce(list.open(-100, Buffer.from(path), 0), 4096);
  return bytesOf((await shadow.batch(list.steps)) as Parameters<typeof bytesOf>[0], read)!.toString('latin1');
}

/** A member of struct process_walk (native/inshadow/process_walk.h) behind the addresses of functions, and its value. */
const nonsense = fc.tuple(
  fc.nat(28).map((member) => 72 + member * 4),
  fc.oneof(fc.nat(4096), fc.integer(), fc.constantFrom(-1, 0, 2 ** 31 - 1)),
);

/** Any number with arguments that mean something now and then. */
const strayCall = fc.record({
  nr: fc.nat(470),
  args: fc.array(
    fc.oneof(
      fc.record({
        kind: fc.constant(NativeArgumentKind.value),
        value: fc.oneof(
          fc.nat(64),
          fc.constantFrom(-1n, -100n, 0x7fff_0000_0000n, 0xffff_ffff_8100_0000n, 2n ** 63n),
          word64,
        ),
      }),
      fc.record({ kind: fc.constant(NativeArgumentKind.inout), bytes: payload }),
      fc.constantFrom('/', '/proc/self/status', '/etc/passwd', '/tmp/new').map((path) => ({
        kind: NativeArgumentKind.in,
        bytes: Buffer.from(`${path}\0`),
      })),
    ),
    { minLength: 6, maxLength: 6 },
  ),
});
