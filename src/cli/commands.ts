import type { AnyCommand } from './command.js';

/** A row of `penumbra --help`. Loading the command itself costs time that only the chosen one is worth. */
export interface CommandEntry {
  usage: string;
  description: string;
  load(): Promise<AnyCommand>;
}

export const commands: readonly CommandEntry[] = [
  {
    usage: 'guests',
    description: 'QEMU guests on this host',
    load: async () => (await import('./guests.js')).guests,
  },
  {
    usage: 'info',
    description: "the guest's kernel, memory and processors, and what attaching cost",
    load: async () => (await import('./info.js')).info,
  },
  { usage: 'ps', description: 'processes', load: async () => (await import('./ps.js')).ps },
  { usage: 'ls [path]', description: 'a directory', load: async () => (await import('./ls.js')).ls },
  { usage: 'cat <path>', description: 'the contents of a file', load: async () => (await import('./cat.js')).cat },
  { usage: 'stat <path>', description: 'what is known of a file', load: async () => (await import('./stat.js')).stat },
  { usage: 'find [path]', description: 'files below a directory', load: async () => (await import('./find.js')).find },
  {
    usage: 'uname',
    description: 'name and version of the system',
    load: async () => (await import('./uname.js')).uname,
  },
  {
    usage: 'run [tool..]',
    description: "a program of this host, answered by the guest's kernel",
    load: async () => (await import('./run.js')).run,
  },
  {
    usage: 'syscall <name> [args..]',
    description: "any system call of the guest's kernel",
    load: async () => (await import('./syscall.js')).syscall,
  },
  {
    usage: 'call <symbol> [args..]',
    description: "any function of the guest's kernel",
    load: async () => (await import('./call.js')).call,
  },
  {
    usage: 'mem <action> <pid> [args..]',
    description: "a process's memory, or the kernel's: read, search, maps",
    load: async () => (await import('./mem.js')).mem,
  },
  {
    usage: 'lab <action> [name]',
    description: 'guests to try things on: up, ls, down, demo',
    load: async () => (await import('./lab.js')).lab,
  },
];
