import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { toolPaths } from '../src/lab/hostTools.js';
import { fileAtItsPlace } from '../test/lab/nested/contents.js';
import { NestedLab } from '../test/lab/nested/machine.js';
import { probeProgram, readyProbe } from './probe.js';
import { TOOLS } from './suites/redirect.js';

const BENCH_TIMEOUT_MS = 3_600_000;
const ROWS = '/tmp/rows.json';

/**
 * Runs the bench in L1 against a guest under KVM, prints what it prints when it is done, and writes its rows to `json`.
 * There is no compiler in L1 and no tools: the probe goes along, and what `penumbra run` is measured with.
 */
export async function benchInL1(args: readonly string[], json: string | undefined): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'penumbra-bench-'));
  try {
    const probe = join(folder, 'probe');
    await writeFile(probe, await probeProgram(), { mode: 0o755 });
    const { name } = fileAtItsPlace(readyProbe);
    const tools = (await toolPaths(TOOLS)).map((path) => ({ name: path.slice(1), source: path }));
    await using l1 = await NestedLab.start({ files: [{ name, source: probe }, ...tools] });
    process.stderr.write(`L1 is up after ${l1.bootMs.toFixed(0)} ms, the bench runs in it\n`);
    const command = ['node --expose-gc dist/bench/main.js --accelerator kvm --json', ROWS, ...args].join(' ');
    const { stdout, stderr, status } = await l1.run(command, BENCH_TIMEOUT_MS);
    process.stdout.write(stdout);
    if (status !== 0) throw new Error(`the bench in L1 ended with status ${status}: ${stderr.toString()}`);
    if (json !== undefined) await writeFile(json, (await l1.run(`cat ${ROWS}`)).stdout);
  } finally {
    await rm(folder, { recursive: true });
  }
}
