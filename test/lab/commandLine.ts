import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const penumbra = fileURLToPath(new URL('../../../bin/penumbra', import.meta.url));

export interface Ended {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

/** Runs bin/penumbra as a user would. */
export function cli(...args: string[]): Promise<Ended> {
  return run(process.execPath, [penumbra, ...args]);
}

/** Runs a shell command in which $penumbra is the command. */
export function shell(command: string): Promise<Ended> {
  return run('/bin/bash', ['-c', command]);
}

function run(program: string, args: string[]): Promise<Ended> {
  // The test runner's own hooks are not for a program that is tested from outside.
  const env = { ...process.env, NODE_OPTIONS: '', TZ: 'UTC', penumbra: `${process.execPath} ${penumbra}` };
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const chunks: { stdout: Buffer[]; stderr: Buffer[] } = { stdout: [], stderr: [] };
  child.stdout.on('data', (chunk: Buffer) => chunks.stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => chunks.stderr.push(chunk));
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) => {
      const stderr = Buffer.concat(chunks.stderr).toString();
      resolve({ status, signal, stdout: Buffer.concat(chunks.stdout), stderr });
    });
  });
}
