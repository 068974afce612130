import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { PenumbraError } from '../../src/errors.js';
import { Btf } from '../../src/kernel/btf.js';
import { BtfTypes } from '../../src/kernel/btfTypes.js';
import { DescriptionCache } from '../../src/kernel/cache.js';
import type { Kernel } from '../../src/kernel/kernel.js';
import { listNodes } from '../../src/kernel/list.js';
import { moduleSymbols } from '../../src/kernel/moduleSymbols.js';
import { listModules } from '../../src/kernel/modules.js';
import { currentTask, possibleCpus } from '../../src/kernel/perCpu.js';
import { recogniseKernel } from '../../src/kernel/recognise.js';
import { Tasks } from '../../src/kernel/tasks.js';
import type { VcpuState } from '../../src/target/target.js';
import { BtfBlob } from '../lab/btfBlob.js';
import { IMAGE_LAYOUTS, type ImageSymbol, imageSymbols, type MadeImage, makeImage, vcpu } from '../lab/kernelImage.js';
import { RamBuffer, WalkedMemory } from '../lab/ramFile.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 3_600_000 : 300_000);

const RUNS = LONG ? 2000 : 25;
/** One attempt on a forged guest may not take longer; generous, for a loaded machine. */
const LIMIT_MS = 10_000;
const KERNEL_BTF = 64 << 10;

const directory = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

/** Where the made kernels have their variables, bytes from _text. */
const VARIABLES = { init_task: 0x580000, modules: 0x590000, __cpu_possible_mask: 0x5a0000, __per_cpu_offset: 0x5a0100 };
const TASK = { size: 256, tasks: 16, threadNode: 32, signal: 48, realCred: 56, realParent: 64 };

/** A kernel with an init task, a second task and a module, all within its image. */
function kernelWithTasks(layout: (typeof IMAGE_LAYOUTS)[number]): MadeImage {
  const variables = Object.entries(VARIABLES).map(([name, at]): ImageSymbol => ({ name, type: 'D', at }));
  const symbols = imageSymbols([...variables, { name: 'current_task', type: 'D', at: 0x5b0000 }]);
  const made = makeImage({ layout, symbols, btf: kernelTypes().bytes(KERNEL_BTF) });
  const put = (at: number, value: bigint) => made.ram.writeBigUInt64LE(BigInt.asUintN(64, value), made.gpa + at);
  const address = (at: number) => made.base + BigInt(at);
  const tasks = [VARIABLES.init_task, VARIABLES.init_task + 0x1000];
  tasks.forEach((task, i) => {
    const other = tasks[1 - i]! + TASK.tasks;
    put(task + TASK.tasks, address(other));
    put(task + TASK.tasks + 8, address(other));
    put(task + TASK.threadNode, address(task + 0x800));
    put(task + TASK.threadNode + 8, address(task + 0x800));
    put(task + TASK.signal, address(task + 0x800));
    put(task + 0x800, address(task + TASK.threadNode));
    put(task + 0x808, address(task + TASK.threadNode));
    put(task + TASK.realCred, address(task + 0x900));
    put(task + TASK.realParent, address(tasks[0]!));
  });
  const module = VARIABLES.modules + 0x100;
  put(VARIABLES.modules, address(module + 8));
  put(VARIABLES.modules + 8, address(module + 8));
  put(module + 8, address(VARIABLES.modules));
  put(module + 16, address(VARIABLES.modules));
  put(module + 0x60, address(module + 0x60));
  put(module + 0x68, address(module + 0x60));
  put(module + 0x70, address(module + 0x200));
  put(module + 0x200, address(module + 0x300));
  put(module + 0x208, 2n);
  put(module + 0x210, address(module + 0x400));
  put(module + 0x218, address(module + 0x500));
  made.ram.write('mod\0', made.gpa + module + 24, 'latin1');
  made.ram.write('\0one\0two\0', made.gpa + module + 0x400, 'latin1');
  made.ram.writeUInt32LE(1, made.gpa + module + 0x300);
  made.ram.writeUInt32LE(5, made.gpa + module + 0x300 + 24);
  made.ram.write('tt', made.gpa + module + 0x500, 'latin1');
  put(VARIABLES.__cpu_possible_mask, 1n);
  put(VARIABLES.__per_cpu_offset, 0n);
  put(0x5b0000, address(VARIABLES.init_task));
  return made;
}

function kernelTypes(): BtfBlob {
  const blob = new BtfBlob();
  const [int, long, char] = [blob.int('int', 4), blob.int('long', 8), blob.int('char', 1)];
  const node = blob.struct('list_head', 16, [
    ['next', long, 0],
    ['prev', long, 64],
  ]);
  const thread = blob.struct('thread_struct', 8, [['sp', long, 0]]);
  const at = (byte: number) => byte * 8;
  blob.struct('task_struct', TASK.size, [
    ['__state', int, 0],
    ['exit_state', int, at(4)],
    ['pid', int, at(8)],
    ['tgid', int, at(12)],
    ['tasks', node, at(TASK.tasks)],
    ['thread_node', node, at(TASK.threadNode)],
    ['signal', long, at(TASK.signal)],
    ['real_cred', long, at(TASK.realCred)],
    ['real_parent', long, at(TASK.realParent)],
    ['comm', blob.array(char, 16), at(72)],
    ['flags', int, at(88)],
    ['mm', long, at(96)],
    ['stack', long, at(104)],
    ['thread', thread, at(112)],
    ['start_boottime', long, at(120)],
  ]);
  blob.struct('signal_struct', 16, [['thread_head', node, 0]]);
  blob.struct(
    'cred',
    32,
    (['uid', 'gid', 'euid', 'egid'] as const).map((name, i) => [name, int, at(4 * i)]),
  );
  blob.struct('cpumask', 8, [['bits', long, 0]]);
  const layout = blob.struct('module_layout', 16, [
    ['base', long, 0],
    ['size', int, at(8)],
  ]);
  blob.struct('module', 256, [
    ['state', int, 0],
    ['list', node, at(8)],
    ['name', blob.array(char, 56), at(24)],
    ['source_list', node, at(0x60)],
    ['kallsyms', long, at(0x70)],
    ['core_layout', layout, at(0x80)],
    ['init_layout', layout, at(0x90)],
    ['refcnt', int, at(0xa0)],
  ]);
  blob.struct('module_use', 48, [
    ['source_list', node, 0],
    ['source', long, at(32)],
  ]);
  blob.struct('mod_kallsyms', 32, [
    ['symtab', long, 0],
    ['num_symtab', int, at(8)],
    ['strtab', long, at(16)],
    ['typetab', long, at(24)],
  ]);
  return blob;
}

let attempts = 0;

function recognise(ram: Buffer, vcpus: VcpuState[], cache?: DescriptionCache): Kernel {
  const memory = new RamBuffer(ram);
  const fresh = cache ?? new DescriptionCache(join(directory, `attempt-${attempts++ % 2}`));
  if (cache === undefined) rmSync(fresh.directory!, { recursive: true, force: true });
  return recogniseKernel(memory, (root, levels) => new WalkedMemory(memory, root, levels), vcpus, { cache: fresh });
}

const QUESTIONS: ((kernel: Kernel) => unknown)[] = [
  (k) => k.symbol('sys_filler_77'),
  (k) => k.symbolAt(k.slide + 0xffffffff81000123n),
  (k) => [...k.symbols()].length,
  (k) => k.offsetof('task_struct.thread.sp'),
  (k) => k.sizeof('task_struct'),
  (k) => k.member('module.core_layout.size'),
  (k) => k.enumerator('NONE'),
  (k) => k.parameters('none'),
  (k) => new Tasks(k).processes(),
  (k) => new Tasks(k).threads(),
  (k) => new Tasks(k).find(12345),
  (k) => listModules(k).map((module) => moduleSymbols(k, module)),
  (k) => possibleCpus(k).map((cpu) => currentTask(k, cpu)),
];

/** Whatever is asked: an answer or a PenumbraError, soon. */
function interrogate(open: () => Kernel): void {
  const start = performance.now();
  const kernel = orOwnError(open);
  if (kernel !== undefined) for (const question of QUESTIONS) orOwnError(() => question(kernel));
  const took = performance.now() - start;
  if (took > LIMIT_MS) throw new Error(`took ${took.toFixed(0)} ms`);
}

function orOwnError<T>(ask: () => T): T | undefined {
  try {
    return ask();
  } catch (error) {
    if (error instanceof PenumbraError) return undefined;
    throw error;
  }
}

/** Words that break careless readers. */
const word = fc.oneof(
  fc.constantFrom(0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xffff, 0x100, 0x81000000, 0x2000),
  fc.nat(0xffffffff),
);

function edits(from: number, to: number) {
  return fc.array(fc.tuple(fc.integer({ min: from >> 2, max: (to >> 2) - 1 }), word), { minLength: 1, maxLength: 40 });
}

function edited(made: MadeImage, changes: [number, number][]): Buffer {
  const ram = Buffer.from(made.ram);
  for (const [at, value] of changes) ram.writeUInt32LE(value, made.gpa + at * 4);
  return ram;
}

t.test('the made kernel is whole', async (t) => {
  const made = kernelWithTasks('6.4');
  const kernel = recognise(made.ram, [made.vcpu]);
  for (const question of QUESTIONS) t.doesNotThrow(() => question(kernel));
  t.equal(new Tasks(kernel).processes().length, 1);
  t.equal(currentTask(kernel, 0), kernel.symbol('init_task'));
  t.same(
    listModules(kernel).flatMap((module) => moduleSymbols(kernel, module).map((s) => s.name)),
    ['one', 'two'],
  );
});

for (const layout of IMAGE_LAYOUTS) {
  const made = kernelWithTasks(layout);
  const { tables, tablesEnd, btf } = made.places;

  t.test(`forged kallsyms, as of ${layout}`, async () => {
    const changes = fc.oneof(
      edits(tables, tablesEnd),
      edits(tablesEnd - 20_000, tablesEnd),
      edits(tables, tables + 64),
    );
    fc.assert(
      fc.property(changes, (list) => interrogate(() => recognise(edited(made, list), [made.vcpu]))),
      { numRuns: RUNS },
    );
  });

  t.test(`forged types, as of ${layout}`, async () => {
    const changes = fc.oneof(edits(btf, btf + 2048), edits(btf, btf + 24));
    fc.assert(
      fc.property(changes, (list) => interrogate(() => recognise(edited(made, list), [made.vcpu]))),
      { numRuns: RUNS },
    );
  });
}

t.test('forged lists, tasks and modules', async () => {
  const made = kernelWithTasks('6.4');
  const known = recognise(made.ram, [made.vcpu], new DescriptionCache(join(directory, 'lists')));
  known.remember();
  const starts = [...Object.values(VARIABLES), VARIABLES.init_task + 0x1000, VARIABLES.modules + 0x100];
  const pointer = fc.constantFrom(
    ...starts.flatMap((at) => [at, at + 8, at + 16, at + 32]).map((at) => at + 0x81000000),
  );
  const change = fc.tuple(
    fc.constantFrom(...starts).chain((start) => fc.integer({ min: start >> 2, max: (start + 0x600) >> 2 })),
    fc.oneof(pointer, word),
  );
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 20 }), (list) =>
      interrogate(() => recognise(edited(made, list), [made.vcpu], new DescriptionCache(join(directory, 'lists')))),
    ),
    { numRuns: RUNS * 5 },
  );
});

t.test('forged page tables and registers', async () => {
  const made = kernelWithTasks('6.4');
  const entry = fc.tuple(
    fc.integer({ min: 0x1000 >> 3, max: (0x4000 >> 3) - 1 }),
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  );
  const image = fc.tuple(
    fc.integer({ min: 0x3000 >> 3, max: (0x4000 >> 3) - 1 }),
    fc.bigInt({ min: 0n, max: 15n }).map((page) => (page << 21n) | 0xe3n),
  );
  const registers = fc.record({
    cr0: fc.constantFrom(0n, 0x80050033n, 0xffffffffffffffffn),
    cr4: fc.constantFrom(0n, 0x6f0n, 0x16f0n),
    efer: fc.constantFrom(0n, 0xd01n),
    cr3: fc.oneof(fc.constant(0x1000n), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })),
  });
  fc.assert(
    fc.property(fc.array(fc.oneof(entry, image), { maxLength: 30 }), registers, (entries, changed) => {
      const ram = Buffer.from(made.ram);
      for (const [at, value] of entries) ram.writeBigUInt64LE(value, at * 8);
      interrogate(() => recognise(ram, [vcpu(changed.cr3, changed), made.vcpu]));
    }),
    { numRuns: RUNS },
  );
});

t.test('tables that invite a search without end', async (t) => {
  const made = kernelWithTasks('6.4');
  const baits: Record<string, (image: Buffer) => void> = {
    'markers everywhere': (image) => {
      for (let at = 0x10000; at < 0x1f0000; at += 4) image.writeUInt32LE(((at >> 2) % 12) * 600, at);
    },
    'a count before every name': (image) => {
      for (let at = 0x10000; at < 0x1f0000; at += 8) image.writeUInt32LE(3000, at);
    },
    'digits everywhere': (image) => {
      const digits = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1');
      for (let at = 0x10000; at < 0x1f0000; at += 64) digits.copy(image, at);
    },
    'BTF everywhere': (image) => {
      for (let at = 0x10000; at < 0x1f0000; at += 24) Buffer.from('9feb010018000000', 'hex').copy(image, at);
    },
  };
  for (const [name, forge] of Object.entries(baits)) {
    for (const keepsTables of [true, false]) {
      const ram = Buffer.from(made.ram);
      const image = ram.subarray(made.gpa);
      forge(image);
      if (!keepsTables) image.fill(0, made.places.tables, made.places.tables + 16);
      t.doesNotThrow(() => interrogate(() => recognise(ram, [made.vcpu])), name);
    }
  }
});

t.test('types out of nothing', async () => {
  const whole = kernelTypes().bytes();
  const mutated = edits(0, whole.length).map((changes) => {
    const bytes = Buffer.from(whole);
    for (const [at, value] of changes) bytes.writeUInt32LE(value, at * 4);
    return bytes;
  });
  const blob = fc.oneof(
    mutated,
    fc.uint8Array({ maxLength: 512 }).map((bytes) => Buffer.from(bytes)),
  );
  const ask = (bytes: Buffer) => {
    const btf = new Btf(new BtfTypes(bytes));
    for (const path of ['task_struct.thread.sp', 'module.core_layout.size', 'module.name[3]']) {
      orOwnError(() => [btf.offsetof(path), btf.sizeof(path), btf.member(path)]);
    }
    for (const name of ['task_struct', 'module', '']) orOwnError(() => [btf.sizeof(name), btf.parameters(name)]);
    btf.enumerator('NONE');
  };
  fc.assert(
    fc.property(blob, (bytes) => void orOwnError(() => ask(bytes))),
    { numRuns: RUNS * 20 },
  );
});

t.test('names that do not end', async (t) => {
  const blob = new BtfBlob();
  const int = blob.int('', 4);
  for (let i = 0; i < 20_000; i++) blob.typedef('', int);
  const padding = 1 << 20;
  const bytes = blob.bytes(padding);
  bytes.fill('a', bytes.length - padding - 1);
  const start = performance.now();
  const btf = new Btf(new BtfTypes(bytes));
  for (const name of ['absent', 'a', 'a'.repeat(512)]) orOwnError(() => [btf.sizeof(name), btf.parameters(name)]);
  const took = performance.now() - start;
  t.ok(took < LIMIT_MS, `it took ${took.toFixed(0)} ms`);
});

t.test('types that contain themselves', async (t) => {
  const blob = new BtfBlob();
  const int = blob.int('int', 4);
  const circle = blob.typedef('circle', int + 1);
  blob.struct('nested', 8, [
    ['', circle + 1, 0],
    ['', circle + 1, 0],
    ['', circle + 1, 0],
  ]);
  const array = blob.array(circle + 2, 2);
  blob.struct('holder', 8, [['array', array, 0]]);
  const btf = new Btf(new BtfTypes(blob.bytes()));
  t.throws(() => btf.sizeof('circle'), { code: 'CORRUPT' });
  t.throws(() => btf.offsetof('nested.absent'), { code: 'CORRUPT', message: /members without end/ });
  t.throws(() => btf.sizeof('holder.array'), { code: 'CORRUPT', message: /array of itself/ });
});

t.test('lists that do not end', async (t) => {
  const made = kernelWithTasks('6.4');
  const memory = new WalkedMemory(new RamBuffer(made.ram), 0x1000n, 4);
  const node = (i: number) => made.base + 0x600000n + 16n * BigInt(i);
  const link = (from: number, next: bigint, prev: bigint) => {
    const at = made.gpa + Number(node(from) - made.base);
    made.ram.writeBigUInt64LE(next, at);
    made.ram.writeBigUInt64LE(prev, at + 8);
  };
  const walk = (limit = 100) => [...listNodes(memory, node(0), 'the list', limit)];

  for (let i = 0; i < 5; i++) link(i, node((i + 1) % 5), node((i + 4) % 5));
  t.same(walk(), [1, 2, 3, 4].map(node));
  t.throws(() => walk(3), { code: 'CORRUPT', message: /more than 3 entries/ });
  link(4, node(2), node(3));
  t.throws(() => walk(), { code: 'CORRUPT', message: /the list is broken/, address: node(2) }, 'a loop past the head');
  for (const next of [0n, 1n, node(1) + 1n, 0xffffffffffffffffn, 0xdead000000000100n]) {
    link(4, next, node(3));
    t.throws(() => walk(), { code: 'CORRUPT' }, next.toString(16));
  }
});

t.test('damaged descriptions never lie', async () => {
  const made = kernelWithTasks('6.4');
  const cache = new DescriptionCache(join(directory, 'damaged'));
  const truth = recognise(made.ram, [made.vcpu], cache);
  const [symbol, offset] = [truth.symbol('init_task'), truth.offsetof('task_struct.mm')];
  truth.remember();
  const path = join(cache.directory!, readdirSync(cache.directory!)[0]!);
  const whole = readFileSync(path);
  const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(damage, fc.nat(whole.length), (changes, length) => {
      const bytes = Buffer.from(whole);
      for (const [at, value] of changes) bytes[at] = value;
      writeFileSync(path, length % 5 === 0 ? bytes.subarray(0, length) : bytes);
      const kernel = recognise(made.ram, [made.vcpu], cache);
      if (kernel.symbol('init_task') !== symbol || kernel.offsetof('task_struct.mm') !== offset)
        throw new Error('a lie');
    }),
    { numRuns: RUNS },
  );
});
