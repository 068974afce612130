import type { Accounts } from '../inspect/accounts.js';
import type { Process } from '../inspect/records.js';
import { splitDevice } from '../shadow/structs/file.js';
import { escapeBytes } from '../text.js';
import { duration, startOfProcess } from './clock.js';
import { UsageError } from './command.js';
import { guestCommand } from './guestCommand.js';
import { ownerName } from './ownerName.js';
import { type Column, table } from './table.js';

interface PsArguments {
  columns?: string;
}

interface PsAnswer {
  processes: Process[];
  accounts: Accounts;
}

/** What one may ask for with -o, under the names that ps(1) has for them. */
const COLUMNS: Record<string, (accounts: Accounts) => Column<Process>> = {
  user: ({ users }) => left('UID', ({ uid }) => ownerName(users, uid)),
  group: ({ groups }) => left('GROUP', ({ gid }) => ownerName(groups, gid)),
  uid: () => right('UID', ({ uid }) => uid),
  gid: () => right('GID', ({ gid }) => gid),
  pid: () => right('PID', ({ pid }) => pid),
  ppid: () => right('PPID', ({ ppid }) => ppid),
  pgid: () => right('PGID', ({ pgrp }) => pgrp),
  sid: () => right('SID', ({ session }) => session),
  c: () => right('C', processorUse),
  s: () => left('S', ({ state }) => escapeBytes(state)),
  pri: () => right('PRI', ({ priority }) => priority),
  ni: () => right('NI', ({ nice }) => nice),
  nlwp: () => right('NLWP', ({ threads }) => threads),
  psr: () => right('PSR', ({ processor }) => processor),
  rss: () => right('RSS', ({ rss }) => Math.round(rss / 1024)),
  vsz: () => right('VSZ', ({ vsize }) => Math.round(vsize / 1024)),
  stime: () => left('STIME', ({ startTime }) => startOfProcess(startTime)),
  tty: () => left('TTY', ({ tty }) => terminalName(tty)),
  time: () => right('TIME', ({ utime, stime }) => duration(utime + stime)),
  comm: () => left('COMMAND', ({ comm }) => escapeBytes(comm)),
  cmd: () => left('CMD', commandLine),
};
/** Those of `ps -ef`. */
const DEFAULT_COLUMNS = ['user', 'pid', 'ppid', 'c', 'stime', 'tty', 'time', 'cmd'];

export const ps = guestCommand<PsArguments, PsAnswer>({
  options: {
    columns: { alias: 'o', type: 'string', requiresArg: true, describe: `of ${Object.keys(COLUMNS).join(' ')}` },
  },
  examples: [
    ['penumbra ps', 'every process, in the columns of ps -ef'],
    ['penumbra ps -o pid,rss,nlwp,cmd', 'memory in KiB, number of threads'],
    ["penumbra ps --json | jq '.[] | select(.uid == 0) | .pid'", 'times in ms, memory in bytes'],
  ],
  check: (args) => void columnNames(args),
  async ask(guest) {
    return guest.processesAndAccounts();
  },
  text({ processes, accounts }, args) {
    const columns = columnNames(args).map((name) => (COLUMNS[name] as (typeof COLUMNS)[string])(accounts));
    return table(columns, processes);
  },
  json: ({ processes, accounts }) =>
    processes.map((process) => ({
      ...process,
      user: accounts.users.get(process.uid),
      group: accounts.groups.get(process.gid),
    })),
});

function columnNames({ columns }: PsArguments): readonly string[] {
  if (columns === undefined) return DEFAULT_COLUMNS;
  const names = columns.toLowerCase().split(',');
  const unknown = names.find((name) => !Object.hasOwn(COLUMNS, name));
  if (unknown === undefined) return names;
  throw new UsageError(`there is no column '${unknown}': ${Object.keys(COLUMNS).join(' ')}`);
}

function left(title: string, text: (process: Process) => string): Column<Process> {
  return { title, text };
}

function right(title: string, value: (process: Process) => number | string): Column<Process> {
  return { title, text: (process) => String(value(process)), align: 'right' };
}

/** The command line; in brackets the name of what has none, as ps has it. */
function commandLine({ args, comm, state }: Process): string {
  const line = args.length > 0 ? args.map((arg) => escapeBytes(arg)).join(' ') : `[${escapeBytes(comm)}]`;
  return state === 'Z' ? `${line} <defunct>` : line;
}

/** Percent of the process's lifetime, by this host's clock. */
function processorUse({ utime, stime, startTime }: Process): number {
  const lifetime = Math.max(1, Date.now() - startTime);
  return Math.min(99, Math.floor((100 * (utime + stime)) / lifetime));
}

/** Device numbers of terminals: the kernel's Documentation/admin-guide/devices.txt. */
function terminalName(tty: number): string {
  const { major, minor } = splitDevice(BigInt(tty));
  if (tty === 0) return '?';
  if (major === 4) return minor < 64 ? `tty${minor}` : `ttyS${minor - 64}`;
  if (major === 5 && minor === 1) return 'console';
  if (major >= 136 && major <= 143) return `pts/${(major - 136) * 256 + minor}`;
  if (major === 229) return `hvc${minor}`;
  return `${major}:${minor}`;
}
