/**
 * npm run bench [-- --kernel 5.10|6.1|6.12] [--rounds N] [--json FILE]
 *
 * Produces every number that README.md and SPECIFICATION.md state. Ratios are of things measured in the same run.
 */
import { writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { attach } from '../src/index.js';
import { LAB_KERNELS, LabGuest } from '../src/lab/index.js';
import { Report } from './report.js';
import { measureRecognition } from './suites/kernel.js';
import { measureLoad } from './suites/load.js';
import { measureCommands, measureSession } from './suites/processes.js';
import { measureSyscalls } from './suites/syscalls.js';

const { values } = parseArgs({
  options: {
    kernel: { type: 'string', default: '6.1' },
    rounds: { type: 'string', default: '100' },
    json: { type: 'string' },
  },
});
const kernel = LAB_KERNELS.find((name) => name === values.kernel);
const rounds = Number(values.rounds);
if (kernel === undefined || !(rounds >= 1)) throw new Error(`--kernel is one of ${LAB_KERNELS.join(', ')}, --rounds a number`);

const report = new Report();
process.stdout.write(`${cpus()[0]?.model ?? 'unknown CPU'}, ${cpus().length} CPUs; TCG guest with kernel ${kernel}, engine unicorn\n`);
await using lab = await LabGuest.start({ kernel });
{
  await using guest = await attach({ qmp: lab.qmp });
  await guest.processes();
  await measureLoad(guest, report, rounds);
  await measureSyscalls(lab, guest, report, rounds);
  await measureSession(guest, report, rounds);
}
await measureRecognition(lab.qmp, report, rounds);
await measureCommands(lab, report, rounds);
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report.rows, undefined, 2)}\n`);
