import { PenumbraError } from '../errors.js';
import { parseCliArguments } from '../shadow/cliArgument.js';
import type { DecodedResult } from '../shadow/decodedResult.js';
import { callToJson, formatCall } from '../shadow/formatCall.js';
import { marshal } from '../shadow/marshal.js';
import type { SyscallArgument } from '../shadow/syscallArgument.js';
import { syscallTable } from '../shadow/syscallTable.js';
import { argumentBytes } from './arguments.js';
import { UsageError } from './command.js';
import { guestCommand } from './guestCommand.js';

interface SyscallArguments {
  name: string;
  args?: string[];
}

export const syscall = guestCommand<SyscallArguments, DecodedResult>({
  positionals: {
    name: { type: 'string', describe: 'name or number' },
    args: {
      type: 'string',
      array: true,
      describe:
        'numbers, symbols (O_RDONLY|O_CLOEXEC), text; @ or @SIZE for a buffer to be filled, hex:00ff, NULL, JSON',
    },
  },
  examples: [
    ['penumbra syscall getpid', ''],
    ['penumbra syscall newfstatat AT_FDCWD /etc/passwd @', 'buffers that are filled may also be left out at the end'],
    [
      "penumbra syscall openat AT_FDCWD /etc/passwd 'O_RDONLY|O_CLOEXEC'",
      'nothing stays open: a shadow is thrown away',
    ],
  ],
  check: (args) => void prepare(args),
  async ask(guest, args) {
    const prepared = prepare(args);
    return guest.use((shadow) => shadow.call(prepared.name, ...prepared.args));
  },
  text: (result) => `${formatCall(result)}\n`,
  json: callToJson,
});

/** @throws UsageError when there is no such call or the arguments do not fit it; PenumbraError REFUSED */
function prepare({ name, args = [] }: SyscallArguments): { name: string | number; args: SyscallArgument[] } {
  try {
    const call = /^\d+$/.test(name) ? Number(name) : name;
    const { parameters } = syscallTable().get(call);
    const values = parseCliArguments(parameters, args).map((value) =>
      typeof value === 'string' ? argumentBytes(value) : value,
    );
    marshal(syscallTable(), call, values);
    return { name: call, args: values };
  } catch (error) {
    if (error instanceof PenumbraError && error.code === 'BAD_ARGUMENT') throw new UsageError(error.message);
    throw error;
  }
}
