import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { CpioEntry } from '../src/lab/cpio.js';
import { withCompiled } from './compile.js';

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

function compile(): Promise<Buffer> {
  const flags = ['-s', '-static', '-nostdlib', '-ffreestanding', '-fno-stack-protector'];
  return withCompiled(source, [...flags, '-fno-asynchronous-unwind-tables'], (program) => readFile(program));
}
