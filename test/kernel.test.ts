import { createHash } from 'node:crypto';
import { appendFileSync, chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { gunzipSync } from 'node:zlib';
import t, { type Test } from 'tap';
import { Btf } from '../src/kernel/btf.js';
import { BtfTypes } from '../src/kernel/btfTypes.js';
import { DescriptionCache } from '../src/kernel/cache.js';
import { findKallsyms, readSpan } from '../src/kernel/kallsyms.js';
import type { Kernel } from '../src/kernel/kernel.js';
import { locateImage } from '../src/kernel/locate.js';
import { locateBtf } from '../src/kernel/locateBtf.js';
import { moduleSymbols } from '../src/kernel/moduleSymbols.js';
import { listModules } from '../src/kernel/modules.js';
import { rootOf } from '../src/kernel/pageTables.js';
import { currentTask, currentVariables, onlineCpus, perCpuBase, possibleCpus } from '../src/kernel/perCpu.js';
import { recogniseKernel } from '../src/kernel/recognise.js';
import { stateLetter } from '../src/kernel/taskState.js';
import { Tasks } from '../src/kernel/tasks.js';
import type { LabSpec } from '../src/lab/index.js';
import type { PhysicalMemory, VcpuState } from '../src/target/target.js';
import { BtfBlob } from './lab/btfBlob.js';
import { labGuest } from './lab/driver.js';
import {
  IMAGE_BANNER,
  IMAGE_LAYOUTS,
  imageSymbols,
  LINKED_TEXT,
  type MadeImage,
  makeImage,
  vcpu,
} from './lab/kernelImage.js';
import { kallsymsLine, parseStatus, usesIsolation, vcpusOf } from './lab/kernelTruth.js';
import { RamBuffer, RamFile, WalkedMemory } from './lab/ramFile.js';

// Guests boot, and print their symbol tables over an emulated console.
t.setTimeout(300_000);

const SLIDE = 0x1be00000n;
/** Less is not taken for a kernel's BTF. */
const KERNEL_BTF = 64 << 10;

function cacheIn(t: Test): DescriptionCache {
  const directory = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return new DescriptionCache(directory);
}

function recognise(memory: PhysicalMemory, vcpus: VcpuState[], cache: DescriptionCache): Kernel {
  return recogniseKernel(memory, (root, levels) => new WalkedMemory(memory, root, levels), vcpus, { cache });
}

function recogniseMade(image: MadeImage, cache: DescriptionCache): Kernel {
  return recognise(new RamBuffer(image.ram), [image.vcpu], cache);
}

const stepNames = (kernel: Kernel) => kernel.steps.map((step) => step.name);

t.test('kallsyms in the layout of each release', async (t) => {
  for (const layout of IMAGE_LAYOUTS) {
    const perCpu =
      layout === '6.15' || layout === '7.0' ? [] : [{ name: 'current_task', type: 'A', at: 0x1fbc0, absolute: true }];
    const twice = [0x30_0000, 0x30_0100].map((at) => ({ name: 'twice', type: 'd', at }));
    const symbols = imageSymbols([...perCpu, ...twice, { name: 'alias', type: 'T', at: 64 }]);
    const made = makeImage({ layout, symbols, slide: SLIDE });
    const kernel = recogniseMade(made, cacheIn(t));

    t.equal(kernel.banner, IMAGE_BANNER, layout);
    t.equal(kernel.release, '9.9.9-made');
    t.equal(kernel.slide, SLIDE);
    const expected = symbols.map(({ name, type, at, absolute }) => ({
      name,
      type,
      address: absolute ? BigInt(at) : made.base + BigInt(at),
    }));
    t.same([...kernel.symbols()], expected);
    t.equal(kernel.symbol('twice'), made.base + 0x30_0000n);
    t.equal(kernel.symbol('constructor'), undefined);
    t.same(kernel.symbolAt(made.base + 32n * 40n + 69n), { name: 'sys_filler_40', offset: 5n });
    t.equal(kernel.symbolAt(made.base - 1n), undefined);
    t.equal(kernel.symbolAt(0x1fbc0n), undefined);
    t.equal(kernel.requireSymbol('nowhere', 'alias'), made.base + 64n);
    t.throws(() => kernel.requireSymbol('here', 'there'), { code: 'NO_SYMBOL', message: /here or there/ });
    t.throws(() => kernel.offsetof('task_struct.pid'), { code: 'NO_BTF', message: /9\.9\.9-made carries no BTF/ });
  }
});

t.test('types', async (t) => {
  const blob = new BtfBlob();
  const int = blob.int('int', 4);
  const u64 = blob.typedef('u64', blob.int('unsigned long', 8));
  const pair = blob.struct('pair', 16, [
    ['first', u64, 0],
    ['second', u64, 64],
  ]);
  const anonymous = blob.union('', 8, [
    ['whole', u64, 0],
    ['half', int, 0],
  ]);
  blob.struct('task', 0, []); // a later one of the same name has the members
  blob.struct('task', 64, [
    ['low', int, 0, 3],
    ['high', int, 3, 5],
    ['', anonymous, 64],
    ['pairs', blob.array(pair, 3), 128],
    ['next', blob.pointer(pair), 8 * 56],
  ]);
  blob.enumeration('colour', [
    ['RED', 1],
    ['LESS', -1],
  ]);
  blob.enumeration64('wide', [['FAR', 0x8000000000000001n]]);
  blob.func('do_it', [
    ['regs', blob.pointer(pair)],
    ['nr', int],
  ]);
  const btf = new Btf(new BtfTypes(blob.bytes()));

  t.equal(btf.offsetof('task.half'), 8);
  t.equal(btf.offsetof('task.pairs[2].second'), 16 + 40);
  t.equal(btf.sizeof('task'), 0);
  t.equal(btf.sizeof('task.pairs'), 48);
  t.equal(btf.sizeof('task.next'), 8);
  t.equal(btf.sizeof('u64'), 8);
  t.equal(btf.offsetof('task.high'), undefined);
  t.same(btf.member('task.high'), { bitOffset: 3, bitSize: 5 });
  t.same(btf.member('task.whole'), { bitOffset: 64, bitSize: 64 });
  t.equal(btf.offsetof('task.absent'), undefined);
  t.equal(btf.offsetof('absent.absent'), undefined);
  t.equal(btf.offsetof('task.next.first'), undefined, 'a pointer is not followed');
  t.equal(btf.enumerator('LESS'), -1n);
  t.equal(btf.enumerator('FAR'), 0x8000000000000001n);
  t.equal(btf.enumerator('GREEN'), undefined);
  t.same(btf.parameters('do_it'), [
    { name: 'regs', kind: 'pointer', size: 8 },
    { name: 'nr', kind: 'integer', size: 4 },
  ]);
  t.throws(() => btf.offsetof('task.pairs['), { code: 'BAD_ARGUMENT' });
});

t.test('what is missing is said', async (t) => {
  const made = makeImage({ layout: '6.4', symbols: imageSymbols() });
  const failing = (ram: Buffer, vcpus: VcpuState[]) => () => recognise(new RamBuffer(ram), vcpus, cacheIn(t));
  const { ram } = made;
  t.throws(failing(ram, []), { code: 'NO_KERNEL', message: /no vCPU/ });
  t.throws(failing(ram, [vcpu(0x1000n, { cr0: 0x10n })]), {
    code: 'NO_KERNEL',
    message: /vCPU 0: paging is off \(cr0 0x10\)/,
  });
  t.throws(failing(ram, [vcpu(0x1000n, { efer: 0n })]), { code: 'NO_KERNEL', message: /not in long mode/ });
  t.throws(failing(ram, [vcpu(0x8000n)]), { code: 'NO_KERNEL', message: /cr3 0x8000 maps no kernel/ });
  t.throws(failing(ram, [vcpu(0xfffff000n)]), { code: 'NO_KERNEL' });

  const withoutTables = Buffer.from(ram).fill(0, made.gpa + made.places.tables, made.gpa + made.places.tablesEnd);
  t.throws(failing(withoutTables, [made.vcpu]), { code: 'NO_KALLSYMS', message: /9\.9\.9-made has no symbol table/ });
  withoutTables.fill(0, made.gpa + made.places.banner, made.gpa + made.places.banner + 100);
  t.throws(failing(withoutTables, [made.vcpu]), { code: 'NO_KERNEL', message: /is no Linux kernel/ });

  const second = recognise(new RamBuffer(ram), [vcpu(0n, { cr0: 0n }), made.vcpu], cacheIn(t));
  t.equal(second.slide, 0n, 'a vCPU that is not up yet is passed over');
});

t.test('remembered kernels', async (t) => {
  const blob = new BtfBlob();
  blob.struct('thing', 24, [['part', blob.int('int', 4), 64]]);
  const spec = { layout: '6.4', symbols: imageSymbols(), btf: blob.bytes(KERNEL_BTF) } as const;
  const made = makeImage(spec);

  await t.test('one guest teaches another, whatever its slide', async (t) => {
    const cache = cacheIn(t);
    const first = recogniseMade(made, cache);
    t.match(stepNames(first), ['locate', 'recall', 'kallsyms', 'types', 'read', 'remember']);
    t.equal(first.offsetof('thing.part'), 8);
    t.equal(first.offsetof('thing.none'), undefined);
    t.ok(first.remember());
    t.notOk(first.remember(), 'nothing new');

    const slid = makeImage({ ...spec, slide: SLIDE });
    slid.ram.write('Linux version 6.6.6-forged (', slid.gpa + slid.places.banner, 'latin1');
    const second = recogniseMade(slid, cache);
    t.same(stepNames(second), ['locate', 'recall', 'read', 'remember']);
    t.equal(second.slide, SLIDE);
    t.equal(second.release, '6.6.6-forged', 'the banner is its own');
    t.equal(second.symbol('sys_filler_7'), slid.base + 64n + 7n * 32n);
    slid.ram.fill(0xff, slid.gpa + slid.places.btf, slid.gpa + slid.places.btf + 4096);
    t.equal(second.offsetof('thing.part'), 8, 'known without its BTF');
    t.equal(second.offsetof('thing.none'), undefined);
  });

  await t.test('tables that change after they were recognised are refused', async (t) => {
    const cache = cacheIn(t);
    recogniseMade(made, cache);
    for (const [place, question] of [
      [made.places.tables + 4096, (k: Kernel) => k.symbol('sys_filler_9')],
      [made.places.btf + 30, (k: Kernel) => k.offsetof('thing.part')],
    ] as const) {
      const guest = makeImage(spec);
      const kernel = recogniseMade(guest, cache);
      guest.ram[guest.gpa + place]! ^= 1;
      t.throws(() => question(kernel), { code: 'CORRUPT', message: /has changed its/ });
      t.notOk(kernel.remember());
      guest.ram[guest.gpa + place]! ^= 1;
      t.doesNotThrow(() => question(recogniseMade(guest, cache)));
    }
  });

  await t.test('a relative base elsewhere makes another kernel', async (t) => {
    const cache = cacheIn(t);
    recogniseMade(made, cache);
    const forged = makeImage(spec);
    const at = forged.ram.lastIndexOf(u64(forged.base));
    u64(forged.base + 16n).copy(forged.ram, at);
    t.throws(() => recogniseMade(forged, cache), { code: 'NO_KALLSYMS' }, 'its banner is not where its symbol says');
    t.equal(recogniseMade(made, cache).symbol('sys_filler_1'), made.base + 96n);
  });

  await t.test('a damaged file is passed over and written anew', async (t) => {
    const cache = cacheIn(t);
    recogniseMade(made, cache);
    const [name] = readdirSync(cache.directory!);
    const path = join(cache.directory!, name!);
    const whole = readFileSync(path);
    const damages = [
      () => writeFileSync(path, ''),
      () => writeFileSync(path, whole.subarray(0, -1)),
      () => appendFileSync(path, '\n'),
      () => writeFileSync(path, whole.toString('latin1').replace('"count":3', '"count":4'), 'latin1'),
      () => writeFileSync(path, Buffer.alloc(5 << 20)),
    ];
    for (const damage of damages) {
      damage();
      t.match(stepNames(recogniseMade(made, cache)), ['locate', 'recall', 'kallsyms']);
      t.same(readFileSync(path), whole);
    }
    t.same(readdirSync(cache.directory!), [name], 'nothing else is left');
  });

  await t.test('without a cache everything works', async (t) => {
    for (const directory of [undefined, '/proc/nowhere', '/dev/null/kernels']) {
      const cache = new DescriptionCache();
      Object.defineProperty(cache, 'directory', { value: directory });
      const kernel = recogniseMade(made, cache);
      t.equal(kernel.offsetof('thing.part'), 8);
      t.notOk(kernel.remember());
    }
    const unreadable = cacheIn(t);
    recogniseMade(made, unreadable);
    chmodSync(unreadable.directory!, 0o000);
    t.equal(recogniseMade(made, unreadable).slide, 0n);
    chmodSync(unreadable.directory!, 0o700);
  });
});

t.test('state letters are those of fs/proc/array.c', async (t) => {
  const letters: [state: number, exit: number, letter: string][] = [
    [0, 0, 'R'],
    [1, 0, 'S'],
    [2, 0, 'D'],
    [0x102, 0, 'D'],
    [0x402, 0, 'I'],
    [4, 0, 'T'],
    [8, 0, 't'],
    [0x80, 0x10, 'X'],
    [0x80, 0x20, 'Z'],
    [0x40, 0, 'P'],
    [0x1000, 0, 'D'],
    [0x8000, 0, 'D'],
    [0x2001, 0, 'S'],
  ];
  for (const [state, exit, letter] of letters) t.equal(stateLetter(state, exit), letter, `${state} ${exit}`);
});

const GUESTS: (Partial<LabSpec> & { kernel: LabSpec['kernel'] })[] = [
  { kernel: '5.10', pti: false },
  { kernel: '6.1', pti: true, vcpus: 2 },
  { kernel: '6.12', cpu: 'max', kaslr: false },
];

for (const spec of GUESTS) {
  t.test(`a ${spec.kernel} guest answers as it does itself`, async (t) => {
    await using guest = await labGuest(t, { ...spec, ram: 'file' });
    await guest.run('echo 0 > /proc/sys/kernel/kptr_restrict');
    const memory = new RamFile(guest.lab.files.ram);
    t.teardown(() => memory.close());
    const vcpus = await vcpusOf(guest);
    const cache = cacheIn(t);
    const kernel = recognise(memory, vcpus, cache);
    t.comment(kernel.steps.map((s) => `${s.name} ${s.milliseconds.toFixed(1)} ms`).join(', '));

    await t.test('the kernel itself', async (t) => {
      t.equal(kernel.release, guest.lab.release);
      t.equal(`${kernel.banner}\n`, `${await guest.text('cat /proc/version')}\n`);
      t.equal(kernel.pti, guest.spec.pti && (await usesIsolation(guest)));
      // A slide of 0 is one that KASLR may choose as well.
      const text = BigInt(`0x${(await guest.text("grep -m 1 ' T _text$' /proc/kallsyms")).slice(0, 16)}`);
      t.equal(kernel.slide, text - LINKED_TEXT);
      if (!guest.spec.kaslr) t.equal(kernel.slide, 0n);
      t.equal(kernel.levels, (await guest.registers()).get('cr4')! & 0x1000n ? 5 : 4);
      t.equal(await guest.kernelGpa(kernel.requireSymbol('init_top_pgt')), kernel.root);
    });

    await t.test('every symbol', async (t) => {
      const printed = gunzipSync((await guest.run('gzip -1 -c /proc/kallsyms', 60_000)).stdout)
        .toString('latin1')
        .split('\n');
      const own = printed.filter((line) => line !== '' && !line.includes('\t'));
      const mine = Array.from(kernel.symbols(), kallsymsLine);
      t.equal(mine.length, own.length);
      t.equal(
        mine.findIndex((line, i) => line !== own[i]),
        -1,
      );
      t.same(kernel.symbolAt(kernel.requireSymbol('schedule') + 3n), { name: 'schedule', offset: 3n });

      for (const module of listModules(kernel)) {
        const tag = `\t[${module.name.toString()}]`;
        const theirs = printed.filter((line) => line.endsWith(tag)).sort();
        const ours = moduleSymbols(kernel, module)
          .map((s) => kallsymsLine(s) + tag)
          .sort();
        t.same(ours, theirs, `symbols of ${module.name.toString()}`);
      }
    });

    await t.test('modules', async (t) => {
      const lines = listModules(kernel).map(({ name, size, refCount, usedBy, state, base }) => {
        const users = usedBy.length === 0 ? '-' : usedBy.map((user) => `${user.toString()},`).join('');
        return `${name.toString()} ${size} ${refCount} ${users} ${state} 0x${base.toString(16).padStart(16, '0')}`;
      });
      t.same(
        lines,
        (await guest.text('cat /proc/modules')).split('\n').map((line) => line.trim()),
      );
    });

    await t.test('types', async (t) => {
      const image = locateImage(memory, (root, levels) => new WalkedMemory(memory, root, levels), vcpus);
      const span = locateBtf(image, findKallsyms(image)!.symbols)!;
      const [sum] = (await guest.text('sha256sum /sys/kernel/btf/vmlinux')).split(' ');
      t.equal(createHash('sha256').update(readSpan(image, span)).digest('hex'), sum);
      t.same(locateBtf(image, { address: () => undefined } as never), span, 'also without its symbol');
      t.equal(kernel.sizeof('list_head'), 16);
      t.equal(kernel.sizeof('task_struct.comm'), 16);
      t.equal(kernel.offsetof('task_struct.absent'), undefined);
      t.ok(kernel.requireOffset('task_struct.__state', 'task_struct.state') > 0);
    });

    await t.test('CPUs', async (t) => {
      const cpus = Array.from({ length: guest.spec.vcpus }, (_, cpu) => cpu);
      t.same(possibleCpus(kernel), cpus);
      t.same(onlineCpus(kernel), cpus);
      await guest.qmp('stop');
      for (const cpu of cpus) {
        const registers = await guest.registers(cpu);
        const inKernel = (registers.get('cs')! & 3n) === 0n;
        if (inKernel) t.equal(registers.get('gsBase'), perCpuBase(kernel, cpu));
        const current = new Tasks(kernel).at(currentTask(kernel, cpu));
        t.ok(current.onCpu, current.comm.toString());
        t.equal(current.cpu, cpu);
        const top = BigInt.asUintN(64, currentVariables(kernel).topOfStack + perCpuBase(kernel, cpu));
        t.equal(kernel.virtual.read(top, 8).readBigUInt64LE(), current.stack + 0x4000n);
      }
      await guest.qmp('cont');
      t.throws(() => perCpuBase(kernel, -1), { code: 'BAD_ARGUMENT' });
    });

    await t.test('tasks', async (t) => {
      const statuses = (await guest.text('cat /proc/[0-9]*/status 2> /dev/null || :'))
        .split(/^(?=Name:)/m)
        .map(parseStatus);
      const tasks = new Map(new Tasks(kernel).processes().map((task) => [task.pid, task]));
      const lasting = statuses.filter((s) => tasks.has(s.pid));
      t.ok(lasting.length >= statuses.length - 3, 'all but the shell that asked');
      for (const s of lasting) {
        const task = tasks.get(s.pid)!;
        t.match({ pid: task.tgid, ppid: task.ppid, uid: task.uid, euid: task.euid, gid: task.gid }, s.ids, s.name);
        t.ok(s.name.startsWith(task.comm.toString('latin1').replaceAll('\\', '\\\\')), s.name);
        if (s.state === 'Z') t.equal(task.state, 'Z', s.name);
        // An idle kernel thread may have been given work in the meantime.
        if (s.state === 'I') t.ok('IRD'.includes(task.state), `${s.name} ${task.state}`);
      }
      const init = new Tasks(kernel).find(1)!;
      t.match(init, { ppid: 0, isKernelThread: false });
      const root = rootOf(kernel, init.mm);
      t.equal(
        new WalkedMemory(memory, root, kernel.levels).translate(kernel.requireSymbol('_text')),
        kernel.virtual.translate(kernel.requireSymbol('_text')),
      );
      const { leaders, threads } = leadersAndThreads(new Tasks(kernel));
      t.same(
        leaders.filter((pid) => !threads.includes(pid)),
        [],
        'leaders are threads as well',
      );
      t.equal(new Tasks(kernel).find(4_000_000), undefined);
    });

    await t.test('the second time it is remembered', async (t) => {
      kernel.remember();
      const again = recognise(memory, await vcpusOf(guest), cache);
      t.same(stepNames(again), ['locate', 'recall', 'read', 'remember']);
      t.comment(again.steps.map((s) => `${s.name} ${s.milliseconds.toFixed(1)} ms`).join(', '));
      t.equal(again.symbol('init_task'), kernel.symbol('init_task'));
      t.equal(new Tasks(again).find(1)!.address, new Tasks(kernel).find(1)!.address);
    });
  });
}

/** Of a time in which no process came or went: the guest runs. */
function leadersAndThreads(tasks: Tasks) {
  const leadersNow = () => tasks.processes().map(({ pid }) => pid);
  for (let leaders = leadersNow(); ; ) {
    const threads = tasks.threads().map(({ pid }) => pid);
    const after = leadersNow();
    if (isDeepStrictEqual(leaders, after)) return { leaders, threads };
    leaders = after;
  }
}

function u64(value: bigint): Buffer {
  return Buffer.from(BigUint64Array.of(value).buffer);
}
