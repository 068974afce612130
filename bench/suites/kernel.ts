import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DescriptionCache } from '../../src/kernel/cache.js';
import { recogniseKernel } from '../../src/kernel/recognise.js';
import { LiveTarget } from '../../src/target/live.js';
import type { Report } from '../report.js';
import { repeat, summarise } from '../statistics.js';

/** Symbols and types decoded from guest RAM, and the kernel recognised when it is known already. */
export async function measureRecognition(qmp: string, report: Report, rounds: number): Promise<void> {
  report.suite('kernel recognised from guest RAM');
  const folder = await mkdtemp(join(tmpdir(), 'penumbra-bench-'));
  await using target = await LiveTarget.open({ qmp });
  const { memory, vcpus } = target;
  const recognise = async (cache: DescriptionCache): Promise<number> => {
    const begin = performance.now();
    const kernel = recogniseKernel(memory, (root, levels) => memory.openVirtual(root, levels), vcpus, { cache });
    kernel.requireSymbol('do_syscall_64');
    kernel.requireOffset('task_struct.thread.sp');
    kernel.remember();
    return performance.now() - begin;
  };
  try {
    const cold = await repeat(rounds, (index) => recognise(new DescriptionCache(join(folder, String(index)))));
    const known = new DescriptionCache(join(folder, 'known'));
    await recognise(known);
    const warm = await repeat(rounds, () => recognise(known));
    report.add('symbols and types decoded', 'ms', summarise(cold), 400);
    report.add('known kernel', 'ms', summarise(warm));
  } finally {
    await rm(folder, { recursive: true });
  }
}
