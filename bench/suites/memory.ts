import { processMemory } from '../../src/kernel/processMemory.js';
import { recogniseKernel } from '../../src/kernel/recognise.js';
import { LabGuest, type LabSpec } from '../../src/lab/index.js';
import { LiveTarget } from '../../src/target/live.js';
import type { Report } from '../report.js';
import { summarise } from '../statistics.js';

const PAGE = 4096n;
const SPACE = 64n << 20n;
const WORDS = 1_000_000;
const SCATTERED_PAGES = 4096;
const TOUCHES = 2000;

/** Guest memory at native speed, of a process that holds 64 MiB, and what a page costs that a shadow copies on touch. */
export async function measureMemory(kernel: LabSpec['kernel'], report: Report, rounds: number): Promise<void> {
  for (const ram of ['memfd', 'private'] as const) {
    await using lab = await LabGuest.start({ kernel, ram });
    // dd has a buffer of 64 MiB and touches all of it, over and over.
    const holder = await lab.run(
      'dd if=/dev/zero of=/dev/null bs=64M > /dev/null 2>&1 & sleep 2; kill -STOP $!; echo $!',
    );
    const pid = Number(holder.stdout.toString());
    await using target = await LiveTarget.open({ qmp: lab.qmp });
    report.suite(`guest memory, RAM ${ram}`);
    measureReads(target, pid, report, Math.min(rounds, 10));
  }
}

function measureReads(target: LiveTarget, pid: number, report: Report, rounds: number): void {
  const open = (root: bigint, levels: 4 | 5) => target.memory.openVirtual(root, levels);
  const kernel = recogniseKernel(target.memory, open, target.vcpus);
  const root = processMemory(kernel, (table) => open(table, kernel.levels), pid).root();
  const space = largestRun(open(root, kernel.levels).extents(0n, 1n << 47n));
  const random = new BigUint64Array(WORDS).map(
    () => space.from + BigInt(Math.floor(Math.random() * Number(space.size - 8n))),
  );
  const pages = shuffled(space.from, Number(space.size / PAGE)).slice(0, SCATTERED_PAGES);
  const physical = shuffled(0n, Number((target.memory.regions[0]?.size ?? 0n) / PAGE)).slice(0, TOUCHES);
  const words: number[] = [];
  const reads: number[] = [];
  const copies: number[] = [];
  const touches: number[] = [];
  let shares = { hits: 0, misses: 0 };
  for (let round = 0; round < rounds; round += 1) {
    const costs = target.native.measureReads(root, kernel.levels, random, pages, target.scratchGpa, physical);
    words.push(costs.wordNs / 1000);
    reads.push(costs.readNs / 1000);
    if (costs.copyNs > 0) copies.push(costs.copyNs / 1000);
    touches.push(...Array.from(costs.touchNs, (ns) => ns / 1000));
    shares = costs;
  }
  const { hits, misses } = shares;
  const missed = ((100 * misses) / (hits + misses)).toFixed(0);
  const isMapped = copies.length > 0;
  report.add(
    `8-byte read, random in ${space.size >> 20n} MiB (${missed} % translation misses)`,
    'us',
    summarise(words),
    isMapped ? 0.06 : undefined,
  );
  report.add(`${pages.length} scattered pages into one buffer`, 'us', summarise(reads));
  if (isMapped) {
    report.add('memcpy of the same pages', 'us', summarise(copies));
    report.ratio('scattered read / memcpy', summarise(reads), summarise(copies), 1.25);
  } else {
    report.add('page copied on touch', 'us', summarise(touches), 8);
  }
}

/** The longest range of virtual memory that is all there. */
function largestRun(extents: readonly { va: bigint; size: bigint }[]): { from: bigint; size: bigint } {
  let best = { from: 0n, size: 0n };
  let run = { from: 0n, size: 0n };
  for (const { va, size } of extents) {
    run = run.from + run.size === va ? { from: run.from, size: run.size + size } : { from: va, size };
    if (run.size > best.size) best = run;
  }
  return best.size > SPACE ? { from: best.from, size: SPACE } : best;
}

function shuffled(from: bigint, count: number): BigUint64Array {
  const pages = Array.from({ length: count }, (_, index) => from + BigInt(index) * PAGE);
  for (let at = count - 1; at > 0; at -= 1) {
    const other = Math.floor(Math.random() * (at + 1));
    [pages[at], pages[other]] = [pages[other] as bigint, pages[at] as bigint];
  }
  return BigUint64Array.from(pages);
}
