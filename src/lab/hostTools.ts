import { execFile } from 'node:child_process';
import { accessSync, constants, readFileSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { CpioEntry } from './cpio.js';

/** Programs of this host with their libraries, as files for a lab guest: the same binary then runs on both sides. */

const LOADER = '/lib64/ld-linux-x86-64.so.2';
const FOLDERS = ['/usr/sbin', '/usr/bin'];

/** Path of a program of the distribution, or undefined where it is not installed. */
export function hostProgram(name: string): string | undefined {
  return FOLDERS.map((folder) => join(folder, name)).find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Paths of the programs that are installed, and of the libraries that they need. */
export async function toolPaths(names: readonly string[]): Promise<string[]> {
  const programs = names.map(hostProgram).filter((path) => path !== undefined);
  const libraries = await Promise.all(programs.map(librariesOf));
  return [...new Set([...programs, ...libraries.flat()])];
}

/** @param more files to be taken along as they are */
export async function toolFiles(names: readonly string[], more: readonly string[] = []): Promise<CpioEntry[]> {
  const paths = new Set([...(await toolPaths(names)), ...more]);
  return [...paths].map((path): CpioEntry => {
    const real = realpathSync(path);
    const mode = statSync(real).mode & 0o755;
    return { kind: 'file', name: path.slice(1), mode, content: readFileSync(real) };
  });
}

async function librariesOf(program: string): Promise<string[]> {
  try {
    const { stdout } = await promisify(execFile)(LOADER, ['--list', program]);
    return [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path as string);
  } catch {
    // Static, or a script.
    return [];
  }
}
