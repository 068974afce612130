import type { Kernel } from '../../src/kernel/kernel.js';
import type { GuestSyscallMetadata } from '../../src/shadow/compareMetadata.js';

const MOST_CALLS = 600;
const LONGEST_STRING = 96;

/**
 * What the guest's kernel keeps of the declarations of its system calls, by number (kernel/trace/trace_syscalls.c,
 * `syscalls_metadata`). Undefined where it was built without CONFIG_FTRACE_SYSCALLS.
 */
export function syscallMetadata(kernel: Kernel): GuestSyscallMetadata[] | undefined {
  const variable = kernel.symbol('syscalls_metadata');
  if (variable === undefined) return undefined;
  const pointer = (at: bigint): bigint => kernel.virtual.read(at, 8).readBigUInt64LE();
  const int = (at: bigint): number => kernel.virtual.read(at, 4).readInt32LE();
  const text = (at: bigint): string => {
    const bytes = kernel.virtual.read(at, LONGEST_STRING);
    return bytes.toString('latin1', 0, bytes.indexOf(0));
  };
  const member = (name: string): bigint => BigInt(kernel.requireOffset(`syscall_metadata.${name}`));
  const found: GuestSyscallMetadata[] = [];
  const array = pointer(variable);
  for (let number = 0; number < MOST_CALLS; number += 1) {
    const entry = pointer(array + BigInt(number * 8));
    // Behind the last call stands something else.
    if (kernel.symbolAt(entry) === undefined || int(entry + member('syscall_nr')) !== number) continue;
    const count = int(entry + member('nb_args'));
    const strings = (name: string): string[] => {
      const list = pointer(entry + member(name));
      return Array.from({ length: count }, (_, index) => text(pointer(list + BigInt(index * 8))));
    };
    const [types, args] = count === 0 ? [[], []] : [strings('types'), strings('args')];
    found.push({ name: text(pointer(entry + member('name'))), nb_args: count, types, args });
  }
  return found;
}
