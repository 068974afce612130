import type { Options } from 'yargs';
import {
  DEFAULT_SPEC,
  LAB_KERNELS,
  LAB_LOADS,
  LAB_MACHINES,
  LAB_RAM_KINDS,
  type LabEntry,
  type LabSpec,
  labDown,
  labList,
  labUp,
} from '../lab/index.js';
import { type Command, type CommonArguments, type Context, ExitStatus, UsageError } from './command.js';
import { wholeNumber } from './guestCommand.js';
import { complain } from './output.js';
import { table } from './table.js';

interface LabArguments extends CommonArguments {
  action: 'up' | 'ls' | 'down' | 'demo';
  name?: string;
  kernel: LabSpec['kernel'];
  vcpus: string;
  cpu: LabSpec['cpu'];
  memory: string;
  load: LabSpec['load'];
  pti: 'on' | 'off';
  kaslr: 'on' | 'off';
  ram: LabSpec['ram'];
  disk: string;
  emulator: LabSpec['emulator'];
  clock: string;
  accelerator: LabSpec['accelerator'];
  machine: LabSpec['machine'];
}

const DEFAULT_NAME = 'lab';
const LARGEST_MIB = 16_384;

const choice = (choices: readonly string[], fallback: string, describe: string): Options => ({
  choices,
  default: fallback,
  requiresArg: true,
  describe,
});
const { kernel, vcpus, cpu, memoryMiB, load, ram, diskMiB, emulator, clock, accelerator, machine } = DEFAULT_SPEC;

export const lab: Command<LabArguments> = {
  positionals: {
    action: {
      choices: ['up', 'ls', 'down', 'demo'],
      describe: 'start one, list them, end one, or see what penumbra does',
    },
    name: { type: 'string', describe: `a name for it; ${DEFAULT_NAME} unless given` },
  },
  options: {
    kernel: choice(LAB_KERNELS, kernel, 'Debian kernel'),
    vcpus: choice(['1', '2'], String(vcpus), 'processors'),
    cpu: choice(['qemu64', 'max'], cpu, 'what they can do'),
    memory: { type: 'string', default: String(memoryMiB), requiresArg: true, describe: 'RAM in MiB' },
    load: choice(LAB_LOADS, load, 'what goes on in it'),
    pti: choice(['on', 'off'], 'on', 'page table isolation'),
    kaslr: choice(['on', 'off'], 'on', "random place of the kernel's code"),
    ram: choice(LAB_RAM_KINDS, ram, 'what backs its RAM'),
    disk: { type: 'string', default: String(diskMiB), requiresArg: true, describe: 'MiB of a disk mounted on /data' },
    emulator: choice(['system', 'qemu10'], emulator, 'which QEMU'),
    clock: { type: 'string', default: clock, requiresArg: true, describe: 'its first time, as 2033-06-15T12:00:00' },
    accelerator: choice(['tcg', 'kvm'], accelerator, 'how it runs'),
    machine: choice(LAB_MACHINES, machine, "QEMU's machine type"),
  },
  examples: [
    ['penumbra lab up', 'boots a guest that stays, and prints its QMP socket'],
    ['penumbra lab up second --kernel 6.12 --load busy', ''],
    ['penumbra lab down second', 'ends it and removes its files'],
    ['penumbra lab demo', 'boots a guest, looks into it, and cleans up'],
  ],
  async run(args, context) {
    switch (args.action) {
      case 'up':
        return up(args, context);
      case 'ls':
        return list(args, context);
      case 'down':
        await labDown(args.name ?? DEFAULT_NAME);
        return ExitStatus.success;
      case 'demo': {
        const { demonstrate } = await import('./labDemo.js');
        return demonstrate(specOf(args), context);
      }
      default:
        throw new UsageError('lab up, lab ls, lab down or lab demo');
    }
  },
};

async function up(args: LabArguments, { output }: Context): Promise<number> {
  const spec = specOf(args);
  if (!args.json) complain('booting ...');
  const entry = await labUp(args.name ?? DEFAULT_NAME, spec);
  if (args.json) await output.json(entry);
  else await output.write(`${entry.qmp}\n`);
  return ExitStatus.success;
}

async function list({ json }: LabArguments, { output }: Context): Promise<number> {
  const entries = await labList();
  if (json) await output.json(entries);
  else await output.write(entryTable(entries));
  return ExitStatus.success;
}

function entryTable(entries: LabEntry[]): string {
  return table(
    [
      { title: 'NAME', text: ({ name }) => name },
      { title: 'PID', text: ({ pid }) => String(pid), align: 'right' },
      { title: 'STATE', text: ({ state }) => state },
      { title: 'KERNEL', text: ({ release }) => release },
      { title: 'QMP', text: ({ qmp }) => qmp },
    ],
    entries,
  );
}

/** What the options ask for. @throws UsageError */
function specOf(args: LabArguments): LabSpec {
  return {
    kernel: args.kernel,
    vcpus: args.vcpus === '2' ? 2 : 1,
    cpu: args.cpu,
    memoryMiB: wholeNumber('memory', args.memory, LARGEST_MIB, 128),
    load: args.load,
    pti: args.pti === 'on',
    kaslr: args.kaslr === 'on',
    ram: args.ram,
    growMiB: DEFAULT_SPEC.growMiB,
    diskMiB: wholeNumber('disk', args.disk, LARGEST_MIB, 0),
    emulator: args.emulator,
    clock: args.clock,
    accelerator: args.accelerator,
    machine: args.machine,
  };
}
