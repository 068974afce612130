import { readFileSync } from 'node:fs';
import { PenumbraError } from '../errors.js';
import { parseParameter, type SyscallParameter } from './argumentKind.js';

/** What a return value that is no error means. */
export type ReturnKind = 'int' | 'fd' | 'address' | 'pid' | 'uid' | 'gid';

/** One line of profiles/syscalls.x86_64. */
export interface SyscallDefinition {
  number: number;
  name: string;
  /** The kernel's function is sys_ENTRY. */
  entry: string;
  /** Why penumbra does not run the call; undefined when it does. */
  refusal: string | undefined;
  parameters: readonly SyscallParameter[];
  returns: ReturnKind;
}

/** number, name[=entry], disposition, the rest */
const LINE = /^(\d+)\s+([a-z_][a-z0-9_]*)(?:=([a-z_][a-z0-9_]*))?\s+(allow|refuse)(?:\s+(.*))?$/;
const RETURN = /^->(fd|address|pid|uid|gid)$/;
const MOST_PARAMETERS = 6;

interface Entry {
  number: number;
  name: string;
  line: string;
  definition?: SyscallDefinition;
}

/**
 * The system calls that penumbra knows. Lines are indexed when the table is made and taken apart when a call is first
 * looked up: reading the whole costs well under a millisecond.
 */
export class SyscallTable {
  readonly #names = new Map<string, Entry>();
  readonly #numbers = new Map<number, Entry>();

  /** @param text in the format that profiles/syscalls.x86_64 describes @throws PenumbraError INTERNAL naming the line */
  constructor(text: string) {
    for (const line of text.split('\n')) {
      if (line === '' || line.startsWith('#')) continue;
      const number = Number.parseInt(line, 10);
      const name = /^\d+\s+([a-z0-9_]+)/.exec(line)?.[1];
      if (name === undefined) throw malformed(line);
      if (this.#names.has(name) || this.#numbers.has(number)) throw malformed(line, 'occurs twice');
      const entry: Entry = { number, name, line };
      this.#names.set(name, entry);
      this.#numbers.set(number, entry);
    }
  }

  /** Number of calls. */
  get size(): number {
    return this.#names.size;
  }

  /** The call of this name or number, or undefined. */
  find(nameOrNumber: string | number): SyscallDefinition | undefined {
    const entry = typeof nameOrNumber === 'number' ? this.#numbers.get(nameOrNumber) : this.#names.get(nameOrNumber);
    if (entry === undefined) return undefined;
    entry.definition ??= parseLine(entry.line);
    return entry.definition;
  }

  /** @throws PenumbraError BAD_ARGUMENT when there is no such call, with the nearest name */
  get(nameOrNumber: string | number): SyscallDefinition {
    const found = this.find(nameOrNumber);
    if (found !== undefined) return found;
    if (typeof nameOrNumber === 'number') {
      throw new PenumbraError('BAD_ARGUMENT', `there is no system call number ${nameOrNumber}`);
    }
    const near = this.#nearest(nameOrNumber);
    throw new PenumbraError(
      'BAD_ARGUMENT',
      `there is no system call '${nameOrNumber}'${near === undefined ? '' : `: did you mean ${near}?`}`,
    );
  }

  /** Every call, in the order of the file. */
  *all(): Generator<SyscallDefinition> {
    for (const name of this.#names.keys()) yield this.get(name);
  }

  #nearest(name: string): string | undefined {
    const known = [...this.#names.keys()];
    const longer = known.filter((candidate) => candidate.includes(name));
    const candidates = longer.length > 0 ? longer : known.filter((candidate) => name.includes(candidate));
    return candidates.sort((a, b) => Math.abs(a.length - name.length) - Math.abs(b.length - name.length))[0];
  }
}

const PROFILE = new URL('../../../profiles/syscalls.x86_64', import.meta.url);
let loaded: SyscallTable | undefined;

/** The table of profiles/syscalls.x86_64, read once, when it is first needed. */
export function syscallTable(): SyscallTable {
  loaded ??= new SyscallTable(readFileSync(PROFILE, 'utf8'));
  return loaded;
}

function parseLine(line: string): SyscallDefinition {
  const match = LINE.exec(line);
  if (match === null) throw malformed(line);
  const [, number = '', name = '', entry = name, disposition, rest = ''] = match;
  const [body = '', reason] = splitReason(rest);
  if ((disposition === 'refuse') !== (reason !== undefined)) throw malformed(line, 'a reason belongs to a refusal');
  const words = body.split(/\s+/).filter((word) => word !== '');
  const returns = RETURN.exec(words.at(-1) ?? '')?.[1];
  const parameters = (returns === undefined ? words : words.slice(0, -1)).map(parseParameter);
  if (parameters.length > MOST_PARAMETERS) throw malformed(line, 'has more than six arguments');
  checkLengths(parameters, line);
  return {
    number: Number(number),
    name,
    entry,
    refusal: reason,
    parameters,
    returns: (returns ?? 'int') as ReturnKind,
  };
}

/** Divides `arguments -- reason`. */
function splitReason(rest: string): [string, string | undefined] {
  const at = rest.search(/(?:^|\s)-- /);
  if (at === -1) return [rest, undefined];
  return [rest.slice(0, at), rest.slice(rest.indexOf('-- ', at) + 3).trim()];
}

function checkLengths(parameters: readonly SyscallParameter[], line: string): void {
  for (const { kind } of parameters) {
    if (kind.form !== 'buffer' || kind.length?.argument === undefined) continue;
    const counter = parameters.find(({ name }) => name === kind.length?.argument);
    if (counter === undefined) throw malformed(line, `has no argument ${kind.length.argument}`);
    if ((counter.kind.form === 'buffer') !== kind.length.indirect)
      throw malformed(line, `${counter.name} is not that kind of length`);
  }
}

function malformed(line: string, why = 'is malformed'): PenumbraError {
  return new PenumbraError('INTERNAL', `profiles/syscalls.x86_64: '${line.slice(0, 60)}' ${why}`);
}
