/**
 * npm run bench [-- --kernel 5.10|6.1|6.12] [--rounds N] [--only SUITE,...] [--json FILE] [--nested]
 *
 * Produces every number that README.md and SPECIFICATION.md state. Ratios are of things measured in the same run.
 * With --nested it runs in the nested lab, against a guest under KVM (test/lab/nested). Suites: load, syscalls, session,
 * recognition, commands, memory, redirect, attachments.
 */
import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { attach } from '../src/index.js';
import { LAB_KERNELS, LabGuest, type LabSpec } from '../src/lab/index.js';
import { benchInL1 } from './nested.js';
import { probeFile } from './probe.js';
import { Report } from './report.js';
import { measureAttachments } from './suites/attachments.js';
import { measureRecognition } from './suites/kernel.js';
import { measureLoad } from './suites/load.js';
import { measureMemory } from './suites/memory.js';
import { measureCommands, measureSession } from './suites/processes.js';
import { measureRedirection } from './suites/redirect.js';
import { measureSyscalls } from './suites/syscalls.js';

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', default: '6.1' },
    rounds: { type: 'string' },
    only: { type: 'string' },
    json: { type: 'string' },
    accelerator: { type: 'string', default: 'tcg' },
    nested: { type: 'boolean', default: false },
  },
});
/** Attached at a time. */
const GUESTS = 20;

const kernel = LAB_KERNELS.find((name) => name === values.kernel);
const accelerator = values.accelerator === 'kvm' ? 'kvm' : 'tcg';
const rounds = Number(values.rounds ?? (values.nested ? 20 : 100));
const suites = values.only?.split(',');
if (kernel === undefined || !(rounds >= 1))
  throw new Error(`--kernel is one of ${LAB_KERNELS.join(', ')}, --rounds a number`);

if (values.nested) {
  const only = values.only === undefined ? [] : ['--only', values.only];
  await benchInL1(['--kernel', kernel, '--rounds', String(rounds), ...only], values.json);
} else {
  await bench(kernel);
}

function isWanted(suite: string): boolean {
  return suites?.includes(suite) ?? true;
}

async function bench(kernel: LabSpec['kernel']): Promise<void> {
  const report = new Report(accelerator);
  await using lab = await LabGuest.start({ kernel, accelerator }, { files: [await probeFile()] });
  {
    await using guest = await attach({ qmp: lab.qmp });
    const { engine, engineReason } = await guest.info();
    const processor = `${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} CPUs`;
    process.stdout.write(
      `${processor}; ${accelerator} guest with kernel ${kernel}, engine ${engine} (${engineReason})\n`,
    );
    await guest.processes();
    if (isWanted('load')) await measureLoad(guest, report, rounds);
    if (isWanted('syscalls')) await measureSyscalls(lab, guest, report, rounds);
    if (isWanted('session')) await measureSession(lab, guest, report, rounds);
  }
  if (isWanted('recognition')) await measureRecognition(lab.qmp, report, rounds);
  // In the nested lab a command takes seconds.
  if (isWanted('commands')) await measureCommands(lab, report, accelerator === 'tcg' ? rounds : 3);
  if (isWanted('memory') && accelerator === 'tcg') await measureMemory(kernel, report, rounds);
  if (isWanted('redirect')) await measureRedirection({ kernel, accelerator }, report, rounds);
  if (isWanted('attachments') && accelerator === 'tcg') await measureAttachments(kernel, report, GUESTS);
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report.rows, undefined, 2)}\n`);
}
