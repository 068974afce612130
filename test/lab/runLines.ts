// runLines.js WORK RESULTS: runs command lines redirected to a guest, and others here. WORK and RESULTS are JSON files.
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { attach, type Guest } from '../../src/index.js';
import { captured } from '../../src/redirect/capture.js';

/** What one line printed, a byte a character. */
export interface LineResult {
  exit: number;
  stdout: string;
  stderr: string;
}

export interface LineWork {
  qmp: string;
  /** NAME=VALUE */
  environment: readonly string[];
  redirected: readonly string[];
  /** to be run without penumbra */
  here: readonly string[];
  /** a socket that is to be there meanwhile */
  socket: string;
}

export interface LineResults {
  redirected: LineResult[];
  here: LineResult[];
}

const TIMEOUT_MS = 60_000;

async function redirect(guest: Guest, line: string, environment: readonly string[]): Promise<LineResult> {
  const { result, stdout, stderr } = await captured((fds) =>
    guest.run(['/usr/bin/sh', '-c', line], { fds, budget: 0, environment, signal: AbortSignal.timeout(TIMEOUT_MS) }),
  );
  return { exit: result.exit, stdout: stdout.toString('latin1'), stderr: stderr.toString('latin1') };
}

function runHere(line: string): LineResult {
  const options = { encoding: 'latin1', timeout: TIMEOUT_MS } as const;
  const { status, stdout, stderr } = spawnSync('/usr/bin/sh', ['-c', line], options);
  return { exit: status ?? -1, stdout, stderr };
}

async function main(workFile: string, resultsFile: string): Promise<void> {
  const work = JSON.parse(readFileSync(workFile, 'utf8')) as LineWork;
  const server = createServer().listen(work.socket);
  await using guest = await attach({ qmp: work.qmp, callTimeout: 10_000 });
  const results: LineResults = { redirected: [], here: work.here.map(runHere) };
  for (const line of work.redirected) results.redirected.push(await redirect(guest, line, work.environment));
  writeFileSync(resultsFile, JSON.stringify(results));
  server.close();
}

await main(process.argv[2] as string, process.argv[3] as string);
