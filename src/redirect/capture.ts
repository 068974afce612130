import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What a tool printed. */
export interface Captured {
  stdout: Buffer;
  stderr: Buffer;
}

/**
 * Runs `work` with standard input, output and error of its own: nothing to read, and files that are read back.
 */
export async function captured<Result>(
  work: (fds: readonly [number, number, number]) => Promise<Result>,
): Promise<{ result: Result } & Captured> {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-run-'));
  const paths = { output: join(folder, 'stdout'), errors: join(folder, 'stderr') };
  const fds: number[] = [];
  try {
    fds.push(openSync('/dev/null', 'r'), openSync(paths.output, 'w', 0o600), openSync(paths.errors, 'w', 0o600));
    const result = await work(fds as [number, number, number] & number[]);
    return { result, stdout: readFileSync(paths.output), stderr: readFileSync(paths.errors) };
  } finally {
    for (const fd of fds) closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}
