import { PenumbraError } from '../errors.js';
import type { Kernel } from './kernel.js';
import { listModules, type Module } from './modules.js';

export interface ModuleSymbol {
  name: string;
  /** as /proc/kallsyms shows it */
  type: string;
  address: bigint;
}

/** The largest modules have some 60,000. */
const SYMBOL_LIMIT = 1 << 19;
const STRINGS_LIMIT = 32 << 20;
/** KSYM_NAME_LEN */
const NAME_LIMIT = 512;
/** Elf64_Sym: name, info, other, section, value, size */
const ELF_SYMBOL_SIZE = 24;
/** struct kernel_symbol has 12 */
const EXPORT_SIZE_LIMIT = 64;
const PAGE = 4096n;

/**
 * The symbols of a module in the order of its symbol table: kernel/module/kallsyms.c, module_get_kallsym().
 * Nameless ones are left out, as in /proc/kallsyms.
 *
 * @throws PenumbraError NO_MEMBER, NO_BTF, CORRUPT, NOT_MAPPED
 */
export function moduleSymbols(kernel: Kernel, module: Module): ModuleSymbol[] {
  const tables = symbolTables(kernel, module);
  if (tables === undefined) return [];
  const { count, symtab, strtab, typetab } = tables;
  const symbols = kernel.virtual.read(symtab, count * ELF_SYMBOL_SIZE);
  const types = kernel.virtual.read(typetab, count);
  const nameAt = (i: number) => symbols.readUInt32LE(i * ELF_SYMBOL_SIZE);
  const strings = readStrings(kernel, module, strtab, lastName(count, nameAt));
  const exported = exportedAddresses(kernel, module);

  const found: ModuleSymbol[] = [];
  for (let i = 0; i < count; i++) {
    const start = nameAt(i);
    const end = strings.indexOf(0, start);
    if (start >= strings.length || end < 0 || end - start > NAME_LIMIT) {
      throw corrupt(module, `the name of symbol ${i} lies outside its string table`);
    }
    if (end === start) continue;
    const address = symbols.readBigUInt64LE(i * ELF_SYMBOL_SIZE + 8);
    const type = String.fromCharCode(types[i]!);
    found.push({
      name: strings.toString('latin1', start, end),
      // kernel/kallsyms.c, s_show(): exported ones are labelled global
      type: exported.has(address) ? type.toUpperCase() : type.toLowerCase(),
      address,
    });
  }
  return found;
}

/** A symbol of any loaded module; of several the one of the module loaded last. */
export function findModuleSymbol(kernel: Kernel, name: string): (ModuleSymbol & { module: Module }) | undefined {
  for (const module of listModules(kernel)) {
    const symbol = moduleSymbols(kernel, module).find((s) => s.name === name);
    if (symbol !== undefined) return { ...symbol, module };
  }
  return undefined;
}

interface SymbolTables {
  count: number;
  symtab: bigint;
  strtab: bigint;
  typetab: bigint;
}

/** struct mod_kallsyms; undefined for a kernel without CONFIG_KALLSYMS or a module that is just being loaded. */
function symbolTables(kernel: Kernel, module: Module): SymbolTables | undefined {
  const pointer = kernel.offsetof('module.kallsyms');
  if (pointer === undefined) return undefined;
  const at = kernel.virtual.read(module.address + BigInt(pointer), 8).readBigUInt64LE();
  if (at === 0n) return undefined;
  const member = (name: string, size: number) =>
    kernel.virtual.read(at + BigInt(kernel.requireOffset(`mod_kallsyms.${name}`)), size);
  const count = member('num_symtab', 4).readUInt32LE();
  if (count > SYMBOL_LIMIT) throw corrupt(module, `${count} symbols`);
  return {
    count,
    symtab: member('symtab', 8).readBigUInt64LE(),
    strtab: member('strtab', 8).readBigUInt64LE(),
    typetab: member('typetab', 8).readBigUInt64LE(),
  };
}

/**
 * What is_exported() in kernel/kallsyms.c looks at: `syms`, not `gpl_syms`. struct kernel_symbol holds its address relative
 * to itself, include/linux/export.h.
 */
function exportedAddresses(kernel: Kernel, module: Module): Set<bigint> {
  const found = new Set<bigint>();
  const size = kernel.sizeof('kernel_symbol');
  if (size === undefined) return found;
  if (size > EXPORT_SIZE_LIMIT) throw corrupt(module, `struct kernel_symbol of ${size} bytes`);
  const member = (name: string, length: number) =>
    kernel.virtual.read(module.address + BigInt(kernel.requireOffset(`module.${name}`)), length);
  const count = member('num_syms', 4).readUInt32LE();
  if (count > SYMBOL_LIMIT) throw corrupt(module, `${count} exported symbols`);
  const at = member('syms', 8).readBigUInt64LE();
  const valueAt = kernel.requireOffset('kernel_symbol.value_offset');
  const entries = kernel.virtual.read(at, count * size);
  for (let offset = valueAt; offset + 4 <= entries.length; offset += size) {
    found.add(BigInt.asUintN(64, at + BigInt(offset + entries.readInt32LE(offset))));
  }
  return found;
}

function lastName(count: number, nameAt: (i: number) => number): number {
  let last = 0;
  for (let i = 0; i < count; i++) last = Math.max(last, nameAt(i));
  return last;
}

/** The string table up to the end of the page in which its last name ends: its length is kept nowhere. */
function readStrings(kernel: Kernel, module: Module, strtab: bigint, last: number): Buffer {
  if (last > STRINGS_LIMIT) throw corrupt(module, `its string table would have ${last} bytes`);
  const endOfPage = (length: bigint) => PAGE - ((strtab + length) % PAGE);
  let length = BigInt(last);
  length += endOfPage(length);
  const strings = kernel.virtual.read(strtab, Number(length));
  if (strings.indexOf(0, last) >= 0) return strings;
  return Buffer.concat([strings, kernel.virtual.tryRead(strtab + length, Number(PAGE)) ?? Buffer.alloc(0)]);
}

function corrupt(module: Module, what: string): PenumbraError {
  const name = module.name.toString('latin1');
  return new PenumbraError('CORRUPT', `module ${name}: ${what}`, { address: module.address });
}
