import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { CpioEntry } from '../src/lab/cpio.js';

/** The program that times syscalls in the guest: its source, and where it lies ready made in a place without compiler. */
const source = fileURLToPath(new URL('../../bench/guest/probe.c', import.meta.url));
export const readyProbe = fileURLToPath(new URL('../../bench/guest/probe', import.meta.url));

/** The probe as a program, compiled unless it is there already. */
export async function probeProgram(): Promise<Buffer> {
  return readFile(readyProbe).catch(compile);
}

/** The same as a file of the guest: /bin/probe. */
export async function probeFile(): Promise<CpioEntry> {
  return { kind: 'file', name: 'bin/probe', mode: 0o755, content: await probeProgram() };
}

async function compile(): Promise<Buffer> {
  const folder = await mkdtemp(join(tmpdir(), 'penumbra-bench-'));
  try {
    const program = join(folder, 'probe');
    const flags = ['-O2', '-s', '-static', '-nostdlib', '-ffreestanding', '-fno-stack-protector'];
    await promisify(execFile)('gcc', [...flags, '-fno-asynchronous-unwind-tables', '-o', program, source]);
    return await readFile(program);
  } finally {
    await rm(folder, { recursive: true });
  }
}
