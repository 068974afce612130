import { accessSync, closeSync, constants, existsSync, openSync, readSync, statSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { PenumbraError } from '../errors.js';
import { SEARCH_PATH } from './environment.js';

/** A program of the host that can be redirected. */
export interface Tool {
  /** absolute path */
  program: string;
  /** argv, the name it was called by first */
  arguments: readonly Buffer[];
}

const ELF = Buffer.from('\x7fELF', 'latin1');
const ELF_CLASS = 4;
const CLASS_64 = 2;
const ELF_MACHINE = 18;
const X86_64 = 62;
/** BINPRM_BUF_SIZE: as much of a script's first line as the kernel looks at. */
const HEAD_SIZE = 256;
const MODE_SETUID = 0o4000;
const MODE_SETGID = 0o2000;

/** A tool's own search path comes first: what users have in front of it are often scripts that look for a program. */
function searchPathOf(environment: NodeJS.ProcessEnv): string {
  return environment.PATH === undefined ? SEARCH_PATH : `${SEARCH_PATH}:${environment.PATH}`;
}

/**
 * Finds a program as a shell does, and checks that it can be run under the filter.
 * @throws PenumbraError NO_TOOL when there is none; UNSUPPORTED for one with the rights of another user, or not for x86-64
 */
export function findTool(words: readonly Buffer[], searchPath = searchPathOf(process.env)): Tool {
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
    if (existsSync(path)) throw new PenumbraError('UNSUPPORTED', `${path} is no program that this user can execute`);
    throw new PenumbraError('NO_TOOL', `this host has no ${path}`);
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
  if (head.subarray(0, 2).toString('latin1') === '#!') {
    requireInterpreter(program, head);
    return;
  }
  const isElf = head.subarray(0, ELF.length).equals(ELF);
  if (!isElf || head[ELF_CLASS] !== CLASS_64 || head.readUInt16LE(ELF_MACHINE) !== X86_64) {
    throw new PenumbraError('UNSUPPORTED', `${program} is no 64-bit program for x86`);
  }
}

/** The kernel takes scripts as interpreters too; what these need is not looked into. */
function requireInterpreter(script: string, head: Buffer): void {
  const [interpreter = ''] = head.toString('latin1', 2).split('\n', 1)[0]?.trim().split(/[ \t]/) ?? [];
  if (!isExecutable(interpreter)) {
    throw new PenumbraError(
      'UNSUPPORTED',
      `${script} is a script for '${interpreter}', which this host cannot execute`,
    );
  }
  if (readHead(interpreter).subarray(0, 2).toString('latin1') !== '#!') requireSuitable(interpreter);
}

function readHead(path: string): Buffer {
  const head = Buffer.alloc(HEAD_SIZE, '\n');
  const fd = openSync(path, 'r');
  try {
    readSync(fd, head, 0, head.length, 0);
  } finally {
    closeSync(fd);
  }
  return head;
}
