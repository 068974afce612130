import type { GuestRecord } from '../hypervisor/discover.js';
import { escapeBytes } from '../text.js';
import { type Command, type CommonArguments, ExitStatus } from './command.js';
import { byteSize } from './quantity.js';
import { type Column, table } from './table.js';

const COLUMNS: Column<GuestRecord>[] = [
  { title: 'PID', text: ({ pid }) => String(pid), align: 'right' },
  { title: 'NAME', text: ({ name }) => escapeBytes(name) },
  { title: 'ACCEL', text: ({ accelerator }) => escapeBytes(accelerator) },
  { title: 'RAM', text: ({ ramSize }) => (ramSize === undefined ? '?' : byteSize(ramSize)), align: 'right' },
  { title: 'RAM KIND', text: ({ ramKind }) => ramKind },
  { title: 'STATE', text: ({ state }) => escapeBytes(state) },
  { title: 'QMP', text: ({ qmp }) => (qmp === undefined ? '-' : escapeBytes(qmp)) },
];

export const guests: Command<CommonArguments> = {
  examples: [
    ['penumbra guests', 'pid, name, accelerator, RAM, state and QMP socket of each QEMU guest'],
    ["penumbra guests --json | jq '.[].name'", 'their names'],
  ],
  async run({ json }, { output }) {
    const { listGuests } = await import('../hypervisor/discover.js');
    const found = await listGuests();
    if (json) await output.json(found);
    else await output.write(table(COLUMNS, found));
    return ExitStatus.success;
  },
};
