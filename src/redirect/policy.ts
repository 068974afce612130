import { PenumbraError } from '../errors.js';
import type { ArgumentKind, BufferLength, SyscallParameter } from '../shadow/argumentKind.js';
import { abiTypes } from '../shadow/structs/abiTypes.js';
import { type SyscallDefinition, type SyscallTable, syscallTable } from '../shadow/syscallTable.js';
import { type LocalFiles, localFiles } from './localFiles.js';
import { readAhead } from './readAhead.js';
import { type Action, type RedirectionRule, redirectionRules } from './rules.js';

/** What the native supervisor decides by: native/redirect/policy.h. */
export interface NativePolicy extends LocalFiles {
  /** one record of CALL_SIZE bytes per syscall number */
  calls: Buffer;
  values: readonly bigint[];
  readAhead: readonly string[];
}

const SYSCALLS = 512;
const CALL_SIZE = 160;
const ARGUMENT_SIZE = 16;
const NAME_SIZE = 28;
const HANDLER_SIZE = 20;
const NONE = 0xff;

const NATIVE_ACTION: Record<Action, number> = {
  free: 1,
  here: 2,
  guest: 3,
  path: 3,
  scratch: 4,
  refuse: 5,
  absent: 6,
  handler: 7,
};
const LOCAL_PATH = 1;
const Kind = { value: 0, fd: 1, dirfd: 2, path: 3, string: 4, in: 5, out: 6, inout: 7, fill: 8 } as const;
const INDIRECT = 1;
const ELEMENTS = 2;

/** Compiles profiles/ into the tables of the native supervisor. @throws PenumbraError INTERNAL naming what is wrong there */
export function compilePolicy(table: SyscallTable = syscallTable(), rules = redirectionRules()): NativePolicy {
  const calls = Buffer.alloc(SYSCALLS * CALL_SIZE);
  const values: bigint[] = [];
  for (let number = 0; number < SYSCALLS; number += 1) {
    const record = calls.subarray(number * CALL_SIZE, (number + 1) * CALL_SIZE);
    const definition = table.find(number);
    if (definition === undefined) writeUnknown(record, number);
    else writeCall(record, definition, rules.get(definition.name), values);
  }
  for (const name of rules.keys()) {
    if (table.find(name) === undefined)
      throw new PenumbraError('INTERNAL', `redirection: there is no system call ${name}`);
  }
  return { calls, values, readAhead: readAhead(), ...localFiles() };
}

/** Nobody knows what it would do. */
function writeUnknown(record: Buffer, number: number): void {
  record[0] = NATIVE_ACTION.absent;
  record[3] = NONE;
  record.write(`syscall ${number}`, 16, NAME_SIZE - 1, 'latin1');
  for (let index = 0; index < 6; index += 1) writeArgument(argumentOf(record, index), { kind: Kind.value });
}

function writeCall(
  record: Buffer,
  definition: SyscallDefinition,
  rule: RedirectionRule | undefined,
  values: bigint[],
): void {
  const { name, parameters } = definition;
  record[0] = rule === undefined ? 0 : NATIVE_ACTION[rule.action];
  record[1] = rule?.action === 'path' ? LOCAL_PATH : 0;
  record[2] = parameters.length;
  record[3] = NONE;
  if (rule?.only !== undefined) {
    const index = parameters.findIndex((parameter) => parameter.name === rule.only?.argument);
    if (index < 0) throw new PenumbraError('INTERNAL', `redirection: ${name} has no argument ${rule.only.argument}`);
    record[3] = index;
    record.writeUInt32LE(values.length, 4);
    record.writeUInt32LE(rule.only.values.length, 8);
    values.push(...rule.only.values);
  }
  record.write(name, 16, NAME_SIZE - 1, 'latin1');
  record.write(rule?.handler ?? '', 16 + NAME_SIZE, HANDLER_SIZE - 1, 'latin1');
  for (let index = 0; index < 6; index += 1) {
    const parameter = parameters[index];
    const compiled = parameter === undefined ? { kind: Kind.value } : compileArgument(parameter.kind, parameters);
    writeArgument(argumentOf(record, index), compiled);
  }
}

interface CompiledArgument {
  kind: number;
  flags?: number;
  lengthArgument?: number;
  unit?: number;
  plus?: number;
  divisor?: number;
}

function compileArgument(kind: ArgumentKind, parameters: readonly SyscallParameter[]): CompiledArgument {
  if (kind.form === 'string') return { kind: kind.isPath ? Kind.path : Kind.string };
  if (kind.form === 'value') {
    return { kind: kind.type === 'fd' ? Kind.fd : kind.type === 'dirfd' ? Kind.dirfd : Kind.value };
  }
  const { direction, type, length } = kind;
  const size = abiTypes.get(type)?.size ?? 1;
  if (length === undefined) return { kind: Kind[direction], unit: size, plus: 1 };
  return {
    kind: Kind[direction],
    flags: (length.indirect ? INDIRECT : 0) | (length.unit === 'elements' && size !== 1 ? ELEMENTS : 0),
    lengthArgument: lengthArgument(length, parameters),
    unit: length.unit === 'elements' ? size : 1,
    plus: length.plus,
    divisor: length.divisor,
  };
}

function lengthArgument({ argument }: BufferLength, parameters: readonly SyscallParameter[]): number {
  return argument === undefined ? NONE : parameters.findIndex(({ name }) => name === argument);
}

function argumentOf(record: Buffer, index: number): Buffer {
  const at = 16 + NAME_SIZE + HANDLER_SIZE + index * ARGUMENT_SIZE;
  return record.subarray(at, at + ARGUMENT_SIZE);
}

function writeArgument(into: Buffer, compiled: CompiledArgument): void {
  const { kind, flags = 0, lengthArgument: counter = NONE, unit = 1, plus = 0, divisor = 1 } = compiled;
  into[0] = kind;
  into[1] = flags;
  into[2] = counter;
  into.writeUInt32LE(unit, 4);
  into.writeUInt32LE(plus, 8);
  into.writeUInt32LE(divisor, 12);
}
