import { readFileSync } from 'node:fs';
import { attach, type Guest } from '../../src/index.js';
import { LabGuest, type LabSpec } from '../../src/lab/index.js';
import type { Report } from '../report.js';
import { summarise } from '../statistics.js';

const MOST_MIB = 15;

/** The private memory that one more guest costs a process that has guests of the same kernel attached, and idle. */
export async function measureAttachments(kernel: LabSpec['kernel'], report: Report, count: number): Promise<void> {
  report.suite(`${count} more guests attached in one process`);
  const labs: LabGuest[] = [];
  const guests: Guest[] = [];
  try {
    const added: number[] = [];
    for (let number = 0; number <= count; number += 1) {
      const lab = await LabGuest.start({ kernel, memoryMiB: 128 });
      labs.push(lab);
      const before = privateMiB();
      const guest = await attach({ qmp: lab.qmp });
      guests.push(guest);
      await guest.processes();
      // The first one brings what all share.
      if (number > 0) added.push(privateMiB() - before);
    }
    report.add('private memory for each', 'MiB', summarise(added), MOST_MIB);
  } finally {
    for (const guest of guests) await guest.close();
    for (const lab of labs) await lab.stop();
  }
}

/** proc_pid_smaps_rollup; the bench runs with --expose-gc. */
function privateMiB(): number {
  globalThis.gc?.();
  const kib = readFileSync('/proc/self/smaps_rollup', 'utf8').matchAll(/^Private_\w+:\s+(\d+) kB$/gm);
  return [...kib].reduce((sum, [, value]) => sum + Number(value), 0) / 1024;
}
