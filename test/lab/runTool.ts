import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Guest } from '../../src/index.js';
import type { RunOptions, RunResult } from '../../src/redirect/run.js';

/** How a redirected tool ended; a byte a character. */
export interface ToolResult extends RunResult {
  stdout: string;
  stderr: string;
}

/** Runs a tool on a guest with files for standard input, output and error. The guest stands until it ends. */
export async function runTool(
  guest: Guest,
  words: readonly string[],
  options: RunOptions = {},
  input = '',
): Promise<ToolResult> {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-run-'));
  const at = (name: string): string => join(folder, name);
  writeFileSync(at('in'), input);
  const fds = [openSync(at('in'), 'r'), openSync(at('out'), 'w'), openSync(at('err'), 'w')] as const;
  try {
    const result = await guest.run(words, {
      budget: 0,
      environment: ['LANG=C'],
      fds,
      ...options,
    });
    const text = (name: string): string => readFileSync(at(name), 'latin1');
    return { ...result, stdout: text('out'), stderr: text('err') };
  } finally {
    for (const fd of fds) closeSync(fd);
    rmSync(folder, { recursive: true });
  }
}
