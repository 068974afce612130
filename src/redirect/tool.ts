import { accessSync, closeSync, constants, openSync, readSync, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { PenumbraError } from '../errors.js';

/** A program of the host that can be redirected. */
export interface Tool {
  /** absolute path */
  program: string;
  /** argv, the name it was called by first */
  arguments: readonly Buffer[];
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const ELF = Buffer.from('\x7fELF', 'latin1');
const ELF_CLASS = 4;
const CLASS_64 = 2;
const ELF_MACHINE = 18;
const X86_64 = 62;
const HEAD_SIZE = 20;
const MODE_SETUID = 0o4000;
const MODE_SETGID = 0o2000;

/**
 * Finds a program as a shell does, and checks that it can be run under the filter.
 * @throws PenumbraError NO_TOOL when there is none; UNSUPPORTED for one with the rights of another user, or not for x86-64
 */
export function findTool(words: readonly Buffer[], searchPath = process.env.PATH ?? DEFAULT_PATH): Tool {
  const [name] = words;
  if (name === undefined || name.length === 0) throw new PenumbraError('NO_TOOL', 'no tool is named');
  const text = name.toString('utf8');
  const program = locate(text, searchPath);
  requireSuitable(program);
  // A script is read by its interpreter, whose working directory is the guest's.
  return { program, arguments: text.includes('/') ? [Buffer.from(program), ...words.slice(1)] : words };
}

function locate(name: string, searchPath: string): string {
  if (name.includes('/')) {
    const path = isAbsolute(name) ? name : resolve(name);
    if (isExecutable(path)) return path;
    throw new PenumbraError('NO_TOOL', `${path} cannot be executed on this host`);
  }
  for (const folder of searchPath.split(':')) {
    const path = join(resolve(folder), name);
    if (isExecutable(path)) return path;
  }
  throw new PenumbraError('NO_TOOL', `this host has no program '${name}'`);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function requireSuitable(program: string): void {
  const { mode, uid, gid } = statSync(program);
  const changesUser = (mode & MODE_SETUID) !== 0 && uid !== process.geteuid?.();
  const changesGroup = (mode & MODE_SETGID) !== 0 && gid !== process.getegid?.();
  if (changesUser || changesGroup) {
    throw new PenumbraError(
      'UNSUPPORTED',
      `${program} runs with the rights of another user, which a redirected tool cannot`,
    );
  }
  const head = readHead(program);
  if (head.subarray(0, 2).toString('latin1') === '#!') return;
  const isElf = head.subarray(0, ELF.length).equals(ELF);
  if (!isElf || head[ELF_CLASS] !== CLASS_64 || head.readUInt16LE(ELF_MACHINE) !== X86_64) {
    throw new PenumbraError('UNSUPPORTED', `${program} is no 64-bit program for x86`);
  }
}

function readHead(path: string): Buffer {
  const head = Buffer.alloc(HEAD_SIZE);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, head, 0, head.length, 0);
  } finally {
    closeSync(fd);
  }
  return head;
}
