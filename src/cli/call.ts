import type { Kernel } from '../kernel/kernel.js';
import { parseNumber } from '../shadow/constants.js';
import { errnoMessage, errnoName, errnoOfResult } from '../shadow/errno.js';
import { escapeBytes } from '../text.js';
import { UsageError } from './command.js';
import { guestCommand } from './guestCommand.js';
import { hex } from './quantity.js';

interface CallArguments {
  symbol: string;
  args?: string[];
}

interface CallAnswer {
  target: string;
  address: bigint;
  args: bigint[];
  /** RAX, unsigned */
  value: bigint;
  /** the kernel symbol that the value points into, as `name+0x10` */
  symbol?: string;
}

const MOST_ARGUMENTS = 6;
const LOWEST = -(2n ** 63n);
const HIGHEST = 2n ** 64n - 1n;

export const call = guestCommand<CallArguments, CallAnswer>({
  positionals: {
    symbol: { type: 'string', describe: "a function of the guest's kernel, or its address" },
    args: { type: 'string', array: true, describe: 'up to six numbers, decimal or 0x hexadecimal' },
  },
  examples: [
    ['penumbra call nr_processes', 'the number of processes'],
    ['penumbra call si_mem_available --json', 'value as a number, and in hexadecimal'],
  ],
  check: (args) => void parseArguments(args),
  async ask(guest, args) {
    const values = parseArguments(args);
    const { kernel } = guest;
    const address = parseNumber(args.symbol) ?? kernel.requireSymbol(args.symbol);
    const value = await guest.use((shadow) => shadow.callFunction(address, ...values));
    const symbol = placeOf(kernel, value);
    return { target: args.symbol, address, args: values, value, ...(symbol === undefined ? {} : { symbol }) };
  },
  text({ target, args, value, symbol }) {
    const name = escapeBytes(target);
    return `${name}(${args.map(hex).join(', ')}) = ${hex(value)}${describe(value)}${symbol ? ` ${symbol}` : ''}\n`;
  },
  json: ({ target, address, args, value, symbol }) => ({
    function: target,
    address: hex(address),
    arguments: args,
    value,
    signed: BigInt.asIntN(64, value),
    hex: hex(value),
    symbol,
  }),
});

/** @throws UsageError */
function parseArguments({ args = [] }: CallArguments): bigint[] {
  if (args.length > MOST_ARGUMENTS) throw new UsageError(`a function takes at most ${MOST_ARGUMENTS} arguments here`);
  return args.map((text) => {
    const value = parseNumber(text);
    if (value !== undefined && value >= LOWEST && value <= HIGHEST) return value;
    throw new UsageError(`'${text}' is no number of 64 bits`);
  });
}

/** Decimal, and the name of an error where the value is one. */
function describe(value: bigint): string {
  const signed = BigInt.asIntN(64, value);
  const errno = errnoOfResult(signed);
  if (errno !== undefined) return ` (${signed} ${errnoName(errno)}: ${errnoMessage(errno)})`;
  return ` (${signed})`;
}

function placeOf(kernel: Kernel, address: bigint): string | undefined {
  const found = kernel.symbolAt(address);
  if (found === undefined) return undefined;
  return found.offset === 0n ? found.name : `${found.name}+${hex(found.offset)}`;
}
