import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** What `use` makes of the program that a C file compiles to; it is gone afterwards. */
export async function withCompiled<Result>(
  source: string,
  flags: readonly string[],
  use: (program: string) => Promise<Result>,
): Promise<Result> {
  const folder = await mkdtemp(join(tmpdir(), 'penumbra-bench-'));
  try {
    const program = join(folder, 'program');
    await promisify(execFile)('gcc', ['-O2', ...flags, '-o', program, source]);
    return await use(program);
  } finally {
    await rm(folder, { recursive: true });
  }
}
