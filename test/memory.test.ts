/** Guest memory of every kind, and what processes have in it, against what QEMU and the guest itself say. */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import t, { type Test } from 'tap';
import {
  type AbsentRange,
  type AddressSpace,
  attach,
  type Guest,
  type PageState,
  readMemoryMaps,
} from '../src/index.js';
import { Tasks } from '../src/kernel/tasks.js';
import type { LabSpec } from '../src/lab/index.js';
import { outputOf } from '../src/shadow/decodedResult.js';
import { out } from '../src/shadow/syscallArgument.js';
import { cli } from './lab/commandLine.js';
import { labGuest, type TestGuest } from './lab/driver.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 3_600_000 : 900_000);

const PAGE = 4096n;
const MIB = 1n << 20n;
const BLOB_BYTES = LONG ? 40_000_000 : 10_000_000;
const HUGE_PAGES = '/proc/sys/vm/nr_hugepages';
/** Of a mapping: they come over the guest's serial port. */
const MOST_PAGES = LONG ? 1024 : 16;
/** An environment that no other process of the lab has. */
const MARK = 'LAB_MARK=penumbra';

/** The same numbers in every run. */
class Random {
  #state = 20261121;
  below(bound: number): number {
    // Numerical Recipes' linear congruential generator; the upper bits are good enough here.
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * bound);
  }
  pick<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)] as Item;
  }
}

async function sleeperPid(lab: TestGuest, seconds: number): Promise<number> {
  return Number(
    await lab.text(
      `for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline) in *"sleep ${seconds} ") echo \${p#/proc/};; esac; done | tail -1`,
    ),
  );
}

// --- RAM as people start it

/** Everything works at all: calls in a shadow, raw walks, file contents, and the mark in a process's memory. */
async function answersRight(t: Test, lab: TestGuest, guest: Guest): Promise<void> {
  const sleeper = await sleeperPid(lab, 100201);
  for (let round = 0; round < 5; round += 1) {
    const inShadow = (await guest.processes()).map(({ pid }) => pid);
    const raw = new Tasks(guest.kernel).processes().map(({ pid }) => pid);
    t.same(
      inShadow.filter((pid) => pid < sleeper),
      raw.filter((pid) => pid < sleeper).sort((a, b) => a - b),
    );
  }
  const file = await guest.readFile('/srv/tree/binary');
  t.equal(
    createHash('sha256').update(file).digest('hex'),
    (await lab.text('sha256sum /srv/tree/binary')).split(' ')[0],
  );
  const memory = guest.memory(sleeper);
  const [at] = await memory.search(Buffer.from(MARK));
  t.equal(at === undefined ? '' : memory.read(at, MARK.length).toString(), MARK);
}

interface RamCase {
  spec: Partial<LabSpec>;
  kinds: string[];
}

const KINDS: RamCase[] = [
  { spec: { ram: 'mixed', kernel: '6.12' }, kinds: ['shared-memfd', 'private-anonymous'] },
  { spec: { ram: 'private', memoryMiB: 6144, cpu: 'max', vcpus: 2 }, kinds: ['private-anonymous'] },
];
const MORE_KINDS: RamCase[] = [
  { spec: { ram: 'private' }, kinds: ['private-anonymous'] },
  { spec: { ram: 'file', kernel: '5.10' }, kinds: ['shared-file'] },
  { spec: { ram: 'memfd', memoryMiB: 6144 }, kinds: ['shared-memfd'] },
];

t.test('RAM of every kind', async (t) => {
  for (const { spec, kinds } of LONG ? [...KINDS, ...MORE_KINDS] : KINDS) {
    await t.test(JSON.stringify(spec), async (t) => {
      await using lab = await labGuest(t, spec);
      await using guest = await attach({ qmp: lab.socket });
      const { ram } = await guest.info();
      t.same([...new Set(ram.map(({ kind }) => kind))], kinds);
      if (lab.spec.memoryMiB > 4096)
        t.ok(
          ram.some(({ gpa }) => gpa >= 4096n * MIB),
          'some of it above 4 GiB',
        );
      await answersRight(t, lab, guest);
      if (lab.spec.memoryMiB > 4096 && lab.spec.cpu === 'max') await hasLargestPages(t, guest);
    });
  }
});

/** The kernel maps all RAM by the largest pages that there are. */
async function hasLargestPages(t: Test, guest: Guest): Promise<void> {
  const kernel = guest.memory('kernel');
  const pageOffset = guest.kernel.virtual.read(guest.kernel.requireSymbol('page_offset_base'), 8).readBigUInt64LE();
  const sizes = Array.from(
    { length: 6 },
    (_, gib) => kernel.page(pageOffset + (BigInt(gib) << 30n) + 5n * MIB).pageSize,
  );
  t.ok(sizes.includes(1n << 30n), `pages of 1 GiB in the direct map: ${sizes.join()}`);
}

t.test('RAM of huge pages', { skip: process.getuid?.() !== 0 && 'only root can set huge pages aside' }, async (t) => {
  const before = readFileSync(HUGE_PAGES, 'utf8');
  const wanted = Number(before) + 130;
  writeFileSync(HUGE_PAGES, String(wanted));
  t.teardown(() => writeFileSync(HUGE_PAGES, before));
  if (Number(readFileSync(HUGE_PAGES, 'utf8')) < wanted) {
    t.pass('RAM of huge pages', { skip: 'this host has no 260 MiB of them left' });
    return;
  }
  await using lab = await labGuest(t, { ram: 'hugetlb' });
  await using guest = await attach({ qmp: lab.socket });
  t.same([...new Set((await guest.info()).ram.map(({ kind }) => kind))], ['hugetlb']);
  const left = () => Number(/HugePages_Free:\s+(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1]);
  const free = left();
  await answersRight(t, lab, guest);
  t.equal(left(), free, 'no huge page was taken for the shadow');
});

// --- RAM that changes

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let attempt = 0; attempt < 300; attempt += 1) {
    if (await holds()) return;
    await sleep(100);
  }
  throw new Error(`in vain: ${what}`);
}

t.test('memory that is plugged and unplugged while attached', async (t) => {
  for (const ram of LONG ? (['memfd', 'private'] as const) : (['private'] as const)) {
    await t.test(ram, async (t) => {
      await using lab = await labGuest(t, { ram, growMiB: 512 });
      await using guest = await attach({ qmp: lab.socket });
      const names = async () => (await guest.info()).ram.map(({ name }) => name);
      await answersRight(t, lab, guest);
      t.same([...new Set(await names())], ['ram']);

      const backend =
        ram === 'memfd' ? { 'qom-type': 'memory-backend-memfd', share: true } : { 'qom-type': 'memory-backend-ram' };
      await lab.qmp('object-add', { ...backend, id: 'more', size: 256 << 20 });
      await lab.qmp('device_add', { driver: 'pc-dimm', id: 'dimm', memdev: 'more' });
      const online =
        'for m in /sys/devices/system/memory/memory*/state; do read -r s < $m; [ $s = online ] || echo online_movable > $m; done';
      await until(
        'the guest has the new memory',
        async () => (await lab.text('grep -c . /sys/devices/system/memory/memory*/state | wc -l')) === '4',
      );
      await lab.text(online);
      // What is movable goes to movable memory first.
      await lab.text(`head -c ${BLOB_BYTES} /dev/urandom > /srv/blob`);
      const blob = await guest.readFile('/srv/blob');
      t.equal(createHash('sha256').update(blob).digest('hex'), (await lab.text('sha256sum /srv/blob')).split(' ')[0]);
      t.same([...new Set(await names())], ['ram', 'more']);
      await answersRight(t, lab, guest);

      await lab.text('rm /srv/blob; sync; echo 3 > /proc/sys/vm/drop_caches');
      await lab.qmp('device_del', { id: 'dimm' });
      await until('the guest gave the memory back', async () =>
        lab.events.some(({ event }) => event === 'DEVICE_DELETED'),
      );
      await lab.qmp('object-del', { id: 'more' });
      await until('penumbra noticed', async () => !(await names()).includes('more'));
      await answersRight(t, lab, guest);
    });
  }
});

// --- The guest's page tables

function canonical(address: bigint, levels: 4 | 5): bigint {
  return BigInt.asUintN(64, BigInt.asIntN(levels === 5 ? 57 : 48, address));
}

t.test("translations are those of QEMU's gva2gpa", async (t) => {
  const random = new Random();
  const specs: Partial<LabSpec>[] = [
    { kernel: '6.1', load: 'busy' },
    { kernel: '6.12', cpu: 'max', load: 'busy', ram: 'private' },
    ...(LONG ? [{ kernel: '5.10', pti: false, load: 'forks' } as const] : []),
  ];
  for (const spec of specs) {
    await t.test(JSON.stringify(spec), async (t) => {
      await using lab = await labGuest(t, spec);
      await using guest = await attach({ qmp: lab.socket });
      for (const mode of ['user', 'kernel'] as const) {
        const registers = await lab.stopIn(mode);
        await t.test(`stopped in ${mode} mode`, (t) => compareTranslations(t, lab, guest, registers, random));
        if (mode === 'user') seesWhatPtiLeaves(t, guest, registers);
        await lab.qmp('cont');
      }
    });
  }
});

function rootOf(registers: Map<string, bigint>): bigint {
  return (registers.get('cr3') as bigint) & 0x000ffffffffff000n;
}

/** With page table isolation a process in user mode runs on tables that have the kernel's entry code, and no more of it. */
function seesWhatPtiLeaves(t: Test, guest: Guest, registers: Map<string, bigint>): void {
  const { kernel } = guest;
  const view = kernel.openVirtual(rootOf(registers));
  const isSeen = (symbol: string) => view.translate(kernel.requireSymbol(symbol)) !== undefined;
  t.ok(isSeen('entry_SYSCALL_64'));
  t.equal(isSeen('linux_banner'), !kernel.pti);
}

async function compareTranslations(
  t: Test,
  lab: TestGuest,
  guest: Guest,
  registers: Map<string, bigint>,
  random: Random,
): Promise<void> {
  const levels = (registers.get('cr4') as bigint) & 0x1000n ? 5 : 4;
  t.equal(levels, guest.kernel.levels);
  const view = guest.kernel.openVirtual(rootOf(registers));
  const half = levels === 5 ? 1n << 56n : 1n << 47n;
  const extents = [...view.extents(0n, half), ...view.extents(2n ** 64n - half, 2n ** 64n - PAGE)];
  t.ok(extents.length > 20, `${extents.length} extents`);
  const addresses: bigint[] = [];
  for (let at = 0; at < (LONG ? 3000 : 75); at += 1) {
    const { va, size } = random.pick(extents);
    addresses.push(va + ((BigInt(random.below(2 ** 31)) * PAGE + BigInt(random.below(4096))) % size));
    // Right before and behind what is there, and somewhere.
    addresses.push(
      va - 1n,
      va + size,
      canonical(BigInt(random.below(2 ** 31)) << BigInt(12 + random.below(20)), levels),
    );
  }
  let mapped = 0;
  for (const address of addresses.filter((address) => address >= 0n && address < 2n ** 64n)) {
    if (canonical(address, levels) !== address) continue;
    const truth = await lab.gva2gpa(address);
    if (truth !== undefined) mapped += 1;
    if (view.translate(address) !== truth) t.equal(view.translate(address), truth, `0x${address.toString(16)}`);
  }
  t.ok(mapped > addresses.length / 5, `${mapped} of ${addresses.length} addresses are mapped`);
}

// --- A process's memory

function digits(address: bigint): string {
  return address.toString(16).padStart(8, '0');
}

interface PagemapEntry {
  present: boolean;
  swapped: boolean;
  gpa: bigint;
  swap: { area: number; page: bigint };
}

/** The guest's own /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst. */
async function pagemap(lab: TestGuest, pid: number, from: bigint, pages: number): Promise<PagemapEntry[]> {
  const { stdout } = await lab.run(`dd if=/proc/${pid}/pagemap bs=8 skip=${from / PAGE} count=${pages} 2>/dev/null`);
  return Array.from({ length: stdout.length / 8 }, (_, index) => {
    const entry = stdout.readBigUInt64LE(index * 8);
    const frame = entry & ((1n << 55n) - 1n);
    return {
      present: (entry & (1n << 63n)) !== 0n,
      swapped: (entry & (1n << 62n)) !== 0n,
      gpa: frame * PAGE,
      swap: { area: Number(frame & 31n), page: frame >> 5n },
    };
  });
}

/** Each page as the guest's pagemap has it; gives how often each state was met. */
async function comparePages(
  t: Test,
  lab: TestGuest,
  memory: AddressSpace,
  from: bigint,
  to: bigint,
): Promise<Record<string, number>> {
  const { ours, theirs } = await whileNothingMoves(lab, memory, from, to);
  const seen: Record<string, number> = {};
  for (const [index, { gpa, absent }] of ours.entries()) {
    const truth = theirs[index] as PagemapEntry;
    const state = absent?.reason ?? 'present';
    seen[state] = (seen[state] ?? 0) + 1;
    const told = { gpa, area: absent?.swap?.area, page: absent?.swap?.page };
    const swap = truth.swapped ? truth.swap : undefined;
    const wanted = { gpa: truth.present ? truth.gpa : undefined, area: swap?.area, page: swap?.page };
    if (told.gpa !== wanted.gpa || told.area !== wanted.area || told.page !== wanted.page) {
      t.same(told, wanted, `page 0x${(from + BigInt(index) * PAGE).toString(16)} (${state})`);
    }
  }
  return seen;
}

/**
 * Both accounts of the same pages. The guest runs and moves pages by itself (swap cache, khugepaged), so its own account
 * is taken before ours and after it, until both are the same.
 */
async function whileNothingMoves(
  lab: TestGuest,
  memory: AddressSpace,
  from: bigint,
  to: bigint,
): Promise<{ ours: PageState[]; theirs: PagemapEntry[] }> {
  const pages = Number((to - from) / PAGE);
  const truth = () => pagemap(lab, memory.pid as number, from, pages);
  let before = await truth();
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const ours = Array.from(before, (_, index) => memory.page(from + BigInt(index) * PAGE));
    const after = await truth();
    if (isDeepStrictEqual(before, after)) return { ours, theirs: after };
    before = after;
  }
  throw new Error(`the pages of process ${memory.pid} do not come to rest`);
}

t.test("a process's memory", async (t) => {
  await using lab = await labGuest(t, { kernel: '6.1', ram: 'private', diskMiB: 192 });
  await t.test('is what the guest says it is', (t) => isWhatTheGuestSays(t, lab));
  await t.test('on the command line', (t) => onTheCommandLine(t, lab));
  await t.test('large pages and swap', (t) => largePagesAndSwap(t, lab));
});

async function isWhatTheGuestSays(t: Test, lab: TestGuest): Promise<void> {
  await using guest = await attach({ qmp: lab.socket });
  const pid = await sleeperPid(lab, 100201);
  const memory = guest.memory(pid);

  await t.test('mappings, pages and bytes', async (t) => {
    const { stdout } = await lab.run(`cat /proc/${pid}/maps`);
    const mappings = await readMemoryMaps(guest, pid);
    t.same(
      mappings.map(({ start, end, permissions, path }) => `${digits(start)}-${digits(end)} ${permissions} ${path}`),
      stdout
        .toString()
        .trimEnd()
        .split('\n')
        .map((line) => {
          const [range, mode, , , , path = ''] = line.split(/ +/);
          return `${range} ${mode} ${path}`;
        }),
    );
    const printed = await cli('mem', 'maps', String(pid), '--qmp', lab.socket).catch(() => undefined);
    t.equal(printed?.status, 1, 'one penumbra at a time');
    for (const { start, end, permissions, path } of mappings) {
      if (path.toString().startsWith('[v')) continue;
      await comparePages(t, lab, memory, start, end);
      if (!permissions.startsWith('r') || end - start > 4n * MIB) continue;
      const count = Math.min(Number((end - start) / PAGE), MOST_PAGES);
      const truth = (await lab.run(`dd if=/proc/${pid}/mem bs=4096 skip=${start / PAGE} count=${count} 2>/dev/null`))
        .stdout;
      const { bytes, absent } = memory.readPresent(start, count * Number(PAGE));
      for (const range of absent)
        truth.fill(0, Number(range.address - start), Number(range.address + range.size - start));
      t.ok(bytes.equals(truth), `the bytes of ${path}`);
    }
  });

  await t.test('ways to read', async (t) => {
    const [at = 0n, ...others] = await memory.search(Buffer.from(MARK));
    t.same(others, []);
    t.same(await memory.search(Buffer.from(MARK), { from: at + 1n, to: at + 100n }), []);
    t.same(await memory.search(Buffer.from('penumbra'), { from: at, to: at + 10n }), [at + 9n]);
    const word = memory.read(at, 8).readBigUInt64LE();
    t.same(
      memory
        .readMany([
          { address: at, length: 8 },
          { address: 0n, length: 8 },
          { address: at, length: 17 },
        ])
        .map(String),
      [MARK.slice(0, 8), 'undefined', MARK],
    );
    const { values, missing } = memory.readWords(BigUint64Array.of(at, 0n, 1n << 63n, at));
    t.same(
      [[...values], [...missing]],
      [
        [word, 0n, 0n, word],
        [1, 2],
      ],
    );
    t.throws(() => memory.read(0n, 8), { code: 'NOT_MAPPED', address: 0n, message: /not present \(never touched/ });
    t.throws(() => memory.read(1n << 60n, 8), { code: 'NOT_MAPPED', message: /no address that there is/ });
    t.equal(memory.tryRead(0n, 8), undefined);
    t.same(await guest.use(async () => memory.read(at, MARK.length).toString()), MARK, 'while the guest stands still');
    t.throws(() => guest.memory(2).read(0n, 1), { code: 'NO_TASK', message: /no memory of its own/ });
    t.throws(() => guest.memory(4_000_000), { code: 'NO_TASK' });
  });

  await t.test('a process that ends, or becomes another program', async (t) => {
    const waiting = 'sh -c "read line < /run/go; exec sleep 200001"';
    const shell = Number(await lab.text(`mkfifo /run/go; ${waiting} > /dev/null 2>&1 & echo $!`));
    const changing = guest.memory(shell);
    const root = changing.root();
    await lab.text('echo > /run/go');
    await until('it is another program', async () =>
      (await lab.text(`tr '\\0' ' ' < /proc/${shell}/cmdline`)).startsWith('sleep 200001'),
    );
    t.not(changing.root(), root);
    t.ok((await changing.search(Buffer.from('200001'))).length > 0);
    await lab.text(`kill ${shell}`);
    await until('it has ended', async () => (await lab.run(`test -e /proc/${shell}`)).status !== 0);
    t.throws(() => changing.root(), { code: 'NO_TASK' });
    t.throws(() => changing.tryRead(0n, 1), { code: 'NO_TASK' });
  });

  await t.test('what is written stays in the shadow', async (t) => {
    const { kernel } = guest;
    const name = kernel.requireSymbol('init_uts_ns') + BigInt(kernel.requireOffset('uts_namespace.name.nodename'));
    const nodename = async (): Promise<string> => (await guest.uname()).nodename.toString();
    await guest.use(async (shadow) => {
      await shadow.write(name, Buffer.from('shadowed\0'), kernel.root);
      t.equal((await shadow.read(name, 8, kernel.root)).toString(), 'shadowed');
      const told = outputOf(await shadow.call('uname', out()), 'name') as { nodename: Buffer };
      t.equal(told.nodename.toString(), 'shadowed');
      await t.rejects(shadow.write(0n, Buffer.from('x'), kernel.root), { code: 'NOT_MAPPED' });
    });
    t.equal(await nodename(), 'lab');
    t.equal(await lab.text('hostname'), 'lab');
    t.equal(kernel.virtual.read(name, 4).toString(), 'lab\0');
  });
}

async function onTheCommandLine(t: Test, lab: TestGuest): Promise<void> {
  const pid = String(await sleeperPid(lab, 100201));
  const mem = (...args: string[]) => cli('mem', ...args, '--qmp', lab.socket);

  const maps = await mem('maps', pid);
  const truth = await lab.text(`cat /proc/${pid}/maps`);
  const squeezed = (text: string) =>
    text
      .trim()
      .split('\n')
      .map((line) => line.trim().replaceAll(/ +/g, ' '));
  t.same(squeezed(maps.stdout.toString()), squeezed(truth));

  const [match] = JSON.parse((await mem('search', pid, MARK, '--json')).stdout.toString());
  t.match(match, { address: /^0x7ff/, mapping: '[stack]' });
  t.match(
    (await mem('search', pid, '--hex', Buffer.from(MARK).toString('hex'))).stdout.toString(),
    `${match.address} [stack] ${MARK}\\000`,
  );
  t.equal((await mem('read', pid, match.address, String(MARK.length), '--raw')).stdout.toString(), MARK);
  t.match((await mem('read', pid, match.address, '16')).stdout.toString(), /4c 41 42 5f .*\|LAB_MARK=penumbr\|\n$/);
  t.match((await mem('read', 'kernel', 'linux_banner', '14', '--raw')).stdout.toString(), 'Linux version ');
  t.match((await mem('read', 'kernel', 'linux_banner+6', '7', '--json')).stdout.toString(), '"content":"version"');
  t.match(await mem('read', pid, '0x1000', '4096'), {
    status: 1,
    stderr: /^penumbra: NOT_MAPPED: 0x1000-0x1fff cannot be read: not present/,
  });
  t.match(await mem('read', '2', '0x1000', '16'), { status: 1, stderr: /^penumbra: NO_TASK: process 2 has no memory/ });
  const wrong = [
    ['read', pid, 'x', '1'],
    ['read', pid, '0x1000'],
    ['read', pid, '0', '0'],
    ['search', pid],
    ['search', pid, '--hex', '4'],
    ['maps', 'kernel'],
    ['maps', 'x'],
  ];
  for (const words of LONG ? wrong : wrong.slice(0, 3)) t.equal((await mem(...words)).status, 2, words.join(' '));
}

async function largePagesAndSwap(t: Test, lab: TestGuest): Promise<void> {
  await using guest = await attach({ qmp: lab.socket });

  await t.test('a process with pages of 2 MiB', async (t) => {
    await lab.text('echo always > /sys/kernel/mm/transparent_hugepage/enabled');
    const holder = Number(
      await lab.text('dd if=/dev/zero of=/dev/null bs=32M > /dev/null 2>&1 & sleep 2; kill -STOP $!; echo $!'),
    );
    const memory = guest.memory(holder);
    const large = memory.extents(0n, 1n << 47n).find(({ size }) => size >= 2n * MIB);
    t.ok(large, 'there is a contiguous run of 2 MiB');
    const start = ((large?.va ?? 0n) + 2n * MIB - 1n) & ~(2n * MIB - 1n);
    t.equal(memory.page(start).pageSize, 2n * MIB);
    const seen = await comparePages(t, lab, memory, start, start + 4n * MIB);
    t.ok((seen['present'] ?? 0) >= 512, JSON.stringify(seen));
    await lab.text(`kill -9 ${holder}`);
  });

  await t.test('a process that is swapped out', async (t) => {
    await lab.text(
      'dd if=/dev/zero of=/data/swap bs=1M count=96 2>/dev/null; chmod 600 /data/swap; mkswap /data/swap; swapon /data/swap',
    );
    await lab.text('echo never > /sys/kernel/mm/transparent_hugepage/enabled');
    await lab.text(
      'mkdir -p /run/cg; mount -t cgroup2 none /run/cg; echo +memory > /run/cg/cgroup.subtree_control; mkdir /run/cg/box',
    );
    const sleeper =
      "sh -c 'echo $$ > /run/cg/box/cgroup.procs; x=$(head -c 3000000 /dev/urandom | base64); sleep 300001; echo $x'";
    await lab.text(`${sleeper} > /dev/null 2>&1 & true`);
    await until(
      'the process sleeps',
      async () => (await lab.run('pidof sleep | wc -w; ps | grep -q "[s]leep 300001"')).status === 0,
    );
    await lab.run('echo 64M > /run/cg/box/memory.reclaim');
    const pid = Number(await lab.text('head -1 /run/cg/box/cgroup.procs'));
    // What a signal or its child wakes would bring pages back.
    await lab.text('kill -STOP $(cat /run/cg/box/cgroup.procs)');
    const memory = guest.memory(pid);
    const writable = (await readMemoryMaps(guest, pid)).filter(({ permissions }) => permissions === 'rw-p');
    let swapped: AbsentRange | undefined;
    let count = 0;
    for (const { start, end } of writable) {
      count += (await comparePages(t, lab, memory, start, end))['swapped'] ?? 0;
      swapped ??= memory.readPresent(start, Number(end - start)).absent.find(({ reason }) => reason === 'swapped');
    }
    t.ok(count > 10, `${count} pages are swapped out`);
    t.match(swapped, { swap: { area: 0 } });
    t.throws(() => memory.read(swapped?.address ?? 0n, 8), {
      code: 'NOT_MAPPED',
      message: /swapped out \(swap area 0, page \d+\)/,
    });
  });
}
