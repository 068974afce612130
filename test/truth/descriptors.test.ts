/**
 * Open, dup, close, fork, exec, kill and wait at random on a guest's files: each call has the result that it has on the
 * same files without redirection, and nothing stays open. PENUMBRA_SEED=N repeats a run.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { attach } from '../../src/index.js';
import type { CpioEntry } from '../../src/lab/cpio.js';
import { labGuest } from '../lab/driver.js';
import { runTool } from '../lab/runTool.js';

t.setTimeout(300_000);

const FILES = 8;
const ROUNDS = 200;
const FIRST_GUEST_FILE = 500;
const source = fileURLToPath(new URL('../../../test/truth/descriptors.c', import.meta.url));

t.test('files and processes at random', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-descriptors-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const program = join(folder, 'descriptors');
  execFileSync('gcc', ['-O1', '-static', '-pthread', '-o', program, source]);
  const texts = Array.from({ length: FILES }, (_, i) => Buffer.from(`${i}: some text of file ${i}. `.repeat(9)));
  const own = join(folder, 'files');
  mkdirSync(own);
  for (const [i, text] of texts.entries()) writeFileSync(join(own, String(i)), text);
  const files: CpioEntry[] = texts.map((content, i) => ({
    kind: 'file',
    name: `files/${i}`,
    mode: 0o644,
    content,
  }));
  files.unshift({ kind: 'folder', name: 'files', mode: 0o755 });

  const seed = process.env.PENUMBRA_SEED ?? String(Date.now() % 1_000_000);
  t.comment(`PENUMBRA_SEED=${seed}`);
  const rest = [seed, String(ROUNDS)];
  const truth = spawnSync(program, [own, ...rest], { encoding: 'latin1', maxBuffer: 64 << 20 }).stdout.split('\n');

  await using lab = await labGuest(t, {}, { files });
  await using guest = await attach({ qmp: lab.socket, callTimeout: 5000 });
  const { exit, stdout, stderr } = await runTool(guest, [program, '/files', ...rest]);
  const lines = stdout.split('\n');
  const at = lines.findIndex((line, i) => line !== truth[i]);
  const around = ({ length }: string[]): [number, number] => [Math.max(0, at - 12), Math.min(length, at + 2)];
  t.equal(at, -1, 'every call has the same result');
  if (at >= 0) t.same(lines.slice(...around(lines)), truth.slice(...around(truth)));
  t.equal(lines.length, truth.length);
  t.match({ exit, stderr }, { exit: 0, stderr: `${FIRST_GUEST_FILE} 5\n` }, 'in the end no file is open in the guest');
});
