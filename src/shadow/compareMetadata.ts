import type { SyscallDefinition, SyscallTable } from './syscallTable.js';

/** One struct syscall_metadata of a guest (kernel: include/trace/syscall.h; there with CONFIG_FTRACE_SYSCALLS). */
export interface GuestSyscallMetadata {
  /** with its prefix: 'sys_openat' */
  name: string;
  nb_args: number;
  /** C types as the kernel's source writes them: 'const char *' */
  types: readonly string[];
  args: readonly string[];
}

export interface MetadataDifference {
  syscall: string;
  /** 'count' and 'pointer' are errors of the table for this guest; 'name' is a renamed argument and harmless. */
  kind: 'count' | 'pointer' | 'name';
  message: string;
}

/** Pointers behind a typedef (kernel: uapi linux/capability.h). */
const POINTER_TYPEDEFS: ReadonlySet<string> = new Set([
  'cap_user_header_t',
  'cap_user_data_t',
  'const cap_user_data_t',
]);

/**
 * What the table and a guest's own description of its system calls disagree on. Calls that the guest does not
 * describe (no metadata, or not built in) are passed over, and so are the guest's entries that belong to other ABIs.
 */
export function compareMetadata(table: SyscallTable, metadata: Iterable<GuestSyscallMetadata>): MetadataDifference[] {
  const byEntry = new Map([...metadata].map((entry) => [entry.name.replace(/^sys_/, ''), entry]));
  const differences: MetadataDifference[] = [];
  for (const definition of table.all()) {
    const guest = definition.entry === 'ni_syscall' ? undefined : byEntry.get(definition.entry);
    if (guest !== undefined) differences.push(...compareCall(definition, guest));
  }
  return differences;
}

function compareCall(definition: SyscallDefinition, guest: GuestSyscallMetadata): MetadataDifference[] {
  const syscall = definition.name;
  const { parameters } = definition;
  if (parameters.length !== guest.nb_args) {
    return [
      {
        syscall,
        kind: 'count',
        message: `${syscall} has ${guest.nb_args} arguments in the guest, ${parameters.length} in the table`,
      },
    ];
  }
  const differences: MetadataDifference[] = [];
  for (const [index, { name, kind }] of parameters.entries()) {
    const type = guest.types[index] ?? '';
    const guestName = guest.args[index] ?? '';
    const isPointer = type.includes('*') || POINTER_TYPEDEFS.has(type);
    if (!isEitherWay(kind) && isPointer !== (kind.form !== 'value')) {
      differences.push({
        syscall,
        kind: 'pointer',
        message: `${syscall}, argument ${name}: the guest's type is '${type}'`,
      });
    }
    if (name !== guestName) {
      differences.push({
        syscall,
        kind: 'name',
        message: `${syscall}, argument ${index + 1}: ${guestName} in the guest, ${name} in the table`,
      });
    }
  }
  return differences;
}

/** Addresses and arguments of changing meaning are pointers for some calls and numbers for others. */
function isEitherWay(kind: SyscallDefinition['parameters'][number]['kind']): boolean {
  return kind.form === 'value' && (kind.type === 'address' || kind.type === 'any' || kind.type === 'unused');
}
