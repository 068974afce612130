import { PenumbraError } from '../errors.js';
import type { Kernel } from './kernel.js';
import { listNodes, steadily } from './list.js';

/** A loaded module, as /proc/modules describes it. */
export interface Module {
  /** of its struct module, guest-virtual */
  address: bigint;
  name: Buffer;
  /** where its text lies */
  base: bigint;
  /** bytes of all its parts that are still there */
  size: number;
  /** uses by others; undefined when modules cannot be unloaded */
  refCount: number | undefined;
  /** modules that use it, in the kernel's order */
  usedBy: Buffer[];
  state: 'Live' | 'Loading' | 'Unloading';
}

const MODULE_LIMIT = 4096;
const USER_LIMIT = 4096;
/** enum mod_mem_type has 7 */
const PARTS_LIMIT = 64;
/** MODULE_NAME_LEN is 56 */
const NAME_LIMIT = 512;
/** include/linux/module.h, enum module_state; modules that are still unformed are not shown */
const STATES = ['Live', 'Loading', 'Unloading', undefined] as const;
/** kernel/module: a loaded module counts as one use */
const MODULE_REF_BASE = 1;

/** The module list, newest module first. @throws PenumbraError NO_SYMBOL, NO_MEMBER, NO_BTF, CORRUPT, NOT_MAPPED */
export function listModules(kernel: Kernel): Module[] {
  const head = kernel.symbol('modules');
  // a kernel without CONFIG_MODULES
  if (head === undefined) return [];
  const offset = BigInt(kernel.requireOffset('module.list'));
  return steadily(() => {
    const nodes = [...listNodes(kernel.virtual, head, 'the module list', MODULE_LIMIT)];
    return nodes.map((node) => readModule(kernel, node - offset)).filter((module) => module !== undefined);
  });
}

function readModule(kernel: Kernel, address: bigint): Module | undefined {
  const number = kernel.virtual.read(address + BigInt(kernel.requireOffset('module.state')), 4).readUInt32LE();
  if (number >= STATES.length) throw corrupt(`state ${number} does not exist`, address);
  const state = STATES[number];
  if (state === undefined) return undefined;
  return { address, state, name: nameOf(kernel, address), ...layoutOf(kernel, address), ...usersOf(kernel, address) };
}

function nameOf(kernel: Kernel, module: bigint): Buffer {
  const length = Math.min(kernel.requireSize('module.name'), NAME_LIMIT);
  const bytes = kernel.virtual.read(module + BigInt(kernel.requireOffset('module.name')), length);
  const end = bytes.indexOf(0);
  if (end < 0) throw corrupt('its name has no end', module);
  return bytes.subarray(0, end);
}

function layoutOf(kernel: Kernel, module: bigint): { base: bigint; size: number } {
  const bytes = (path: string, length: number) =>
    kernel.virtual.read(module + BigInt(kernel.requireOffset(path)), length);
  // 6.4, ac3b43283923: one struct module_memory per kind of memory, text first; before, core_layout and init_layout
  const all = kernel.sizeof('module.mem');
  if (all === undefined) {
    const sizes = ['core_layout', 'init_layout'].map((l) => bytes(`module.${l}.size`, 4).readUInt32LE());
    return { base: bytes('module.core_layout.base', 8).readBigUInt64LE(), size: sizes[0]! + sizes[1]! };
  }
  const parts = Math.round(all / kernel.requireSize('module_memory'));
  if (parts > PARTS_LIMIT) throw corrupt(`${parts} parts`, module);
  let size = 0;
  for (let part = 0; part < parts; part++) size += bytes(`module.mem[${part}].size`, 4).readUInt32LE();
  return { base: bytes('module.mem[0].base', 8).readBigUInt64LE(), size };
}

function usersOf(kernel: Kernel, module: bigint): { refCount: number | undefined; usedBy: Buffer[] } {
  const counter = kernel.offsetof('module.refcnt');
  if (counter === undefined) return { refCount: undefined, usedBy: [] };
  const refCount = kernel.virtual.read(module + BigInt(counter), 4).readInt32LE() - MODULE_REF_BASE;
  const head = module + BigInt(kernel.requireOffset('module.source_list'));
  const link = kernel.requireOffset('module_use.source_list');
  const source = kernel.requireOffset('module_use.source');
  const usedBy: Buffer[] = [];
  for (const node of listNodes(kernel.virtual, head, 'the users of a module', USER_LIMIT)) {
    const user = kernel.virtual.read(node + BigInt(source - link), 8).readBigUInt64LE();
    usedBy.push(nameOf(kernel, user));
  }
  return { refCount, usedBy };
}

function corrupt(what: string, address: bigint): PenumbraError {
  return new PenumbraError('CORRUPT', `struct module at 0x${address.toString(16)}: ${what}`, { address });
}
