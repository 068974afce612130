import type { Options } from 'yargs';
import type { PenumbraError } from '../errors.js';
import type { AttachOptions, EngineName, Guest } from '../schedule/guest.js';
import { type Command, type CommonArguments, type Context, ExitStatus, UsageError } from './command.js';
import { interruptible } from './interruptible.js';
import { complain } from './output.js';

/** How every command that looks into a guest is told which one, and how. */
export interface GuestArguments extends CommonArguments {
  guest?: string;
  qmp?: string;
  all: boolean;
  engine: EngineName;
  as: string;
  timeout: string;
}

/** A command that asks a guest and prints the answer once the guest runs on. */
export interface GuestCommand<Arguments, Answer> extends Omit<Command<Arguments>, 'run'> {
  /** @throws UsageError before the guest is touched */
  check?(args: Arguments): void;
  ask(guest: Guest, args: Arguments & GuestArguments, signal: AbortSignal): Promise<Answer>;
  text(answer: Answer, args: Arguments): string | Buffer;
  /** what to print as JSON; the answer itself unless given */
  json?(answer: Answer, args: Arguments): unknown;
  /** what is missing in the answer: a line of standard error each, and exit status 1 */
  problems?(answer: Answer): readonly PenumbraError[];
}

export const guestOptions: Record<string, Options> = {
  guest: {
    type: 'string',
    requiresArg: true,
    describe: "the guest of this name or QEMU's pid",
    conflicts: ['qmp', 'all'],
  },
  qmp: { type: 'string', requiresArg: true, describe: 'the guest behind this QMP socket', conflicts: ['all'] },
  all: { type: 'boolean', describe: 'every guest on this host' },
  engine: {
    choices: ['auto', 'kvm', 'unicorn'],
    default: 'auto',
    requiresArg: true,
    describe: "what runs the guest's code",
  },
  as: {
    type: 'string',
    default: '1',
    requiresArg: true,
    describe: 'process of the guest (pid) whose rights, root and namespaces are used',
  },
  timeout: {
    type: 'string',
    default: '2000',
    requiresArg: true,
    describe: "ms that one of the guest's system calls may take",
  },
};
const LONGEST_TIMEOUT = 3_600_000;
const HIGHEST_PID = 4_194_304;

let guestsInUse = 0;

/** The whole of a command; that it asks a guest can still be seen, for those who have a guest at hand. */
export function guestCommand<Arguments, Answer>(
  command: GuestCommand<Arguments, Answer>,
): Command<Arguments & GuestArguments> & GuestCommand<Arguments, Answer> {
  return {
    ...command,
    options: { ...command.options, ...guestOptions },
    run(args, context) {
      const attachOptions = attachOptionsOf(args, context.signal);
      command.check?.(args);
      return args.all ? askAll(command, args, attachOptions, context) : askOne(command, args, attachOptions, context);
    },
  };
}

/** What `attach` gets. @throws UsageError */
export function attachOptionsOf(args: GuestArguments, signal: AbortSignal): AttachOptions {
  const { guest, qmp, engine } = args;
  return {
    ...(guest === undefined ? {} : { guest }),
    ...(qmp === undefined ? {} : { qmp }),
    engine,
    as: wholeNumber('as', args.as, HIGHEST_PID),
    callTimeout: wholeNumber('timeout', args.timeout, LONGEST_TIMEOUT),
    signal,
  };
}

/** @throws UsageError unless `text` is a decimal number from `least` to `most` */
export function wholeNumber(option: string, text: string, most: number, least = 1): number {
  const number = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (number >= least && number <= most) return number;
  throw new UsageError(`--${option} is a number from ${least} to ${most}, not '${text}'`);
}

/**
 * Attaches, works, detaches. When interrupted it does not wait for the work, but for the guest to be let go. Is not
 * suspended by the terminal meanwhile: the guest would stand as long.
 */
export async function withGuest<Answer>(
  options: AttachOptions,
  verbose: boolean,
  work: (guest: Guest) => Promise<Answer>,
): Promise<Answer> {
  const { attach } = await import('../index.js');
  if (guestsInUse++ === 0) process.on('SIGTSTP', refuseSuspension);
  try {
    const guest = await attach(options);
    try {
      const answer = await interruptible(work(guest), options.signal);
      if (verbose) await reportCosts(guest);
      return answer;
    } finally {
      await guest.close();
    }
  } finally {
    if (--guestsInUse === 0) process.off('SIGTSTP', refuseSuspension);
  }
}

/** The terminal has suspended the rest of the process group as well: a tool, or who reads this output. */
function refuseSuspension(): void {
  complain('penumbra: not suspended, since the guest would stand still as long (Ctrl-C ends it)');
  process.kill(0, 'SIGCONT');
}

async function askOne<Arguments, Answer>(
  command: GuestCommand<Arguments, Answer>,
  args: Arguments & GuestArguments,
  options: AttachOptions,
  { output, signal }: Context,
): Promise<number> {
  const answer = await withGuest(options, args.verbose, (guest) => command.ask(guest, args, signal));
  if (args.json) await output.json(command.json?.(answer, args) ?? answer);
  else await output.write(command.text(answer, args));
  return reportProblems(command, answer);
}

interface Outcome<Answer> {
  guest: string;
  pid: number;
  answer?: Answer;
  error?: unknown;
}

/** All guests at once; one that fails does not keep the others from answering. */
async function askAll<Arguments, Answer>(
  command: GuestCommand<Arguments, Answer>,
  args: Arguments & GuestArguments,
  options: AttachOptions,
  { output, signal }: Context,
): Promise<number> {
  const { listGuests } = await import('../index.js');
  const ask = (guest: Guest): Promise<Answer> => command.ask(guest, args, signal);
  const outcomes = await Promise.all(
    (await listGuests()).map(async ({ name, pid }): Promise<Outcome<Answer>> => {
      try {
        return { guest: name, pid, answer: await withGuest({ ...options, guest: String(pid) }, args.verbose, ask) };
      } catch (error) {
        return { guest: name, pid, error };
      }
    }),
  );
  signal.throwIfAborted();
  if (args.json) await output.json(outcomes.map((outcome) => jsonOutcome(command, args, outcome)));
  let status: number = ExitStatus.success;
  for (const outcome of outcomes) status = Math.max(status, await printOutcome(command, args, outcome, output));
  return status;
}

function jsonOutcome<Arguments, Answer>(
  command: GuestCommand<Arguments, Answer>,
  args: Arguments,
  outcome: Outcome<Answer>,
) {
  const { guest, pid, answer, error } = outcome;
  if (answer === undefined) return { guest, pid, ok: false, error };
  return { guest, pid, ok: true, result: command.json?.(answer, args) ?? answer };
}

async function printOutcome<Arguments, Answer>(
  command: GuestCommand<Arguments, Answer>,
  args: Arguments & GuestArguments,
  { guest, pid, answer, error }: Outcome<Answer>,
  output: Context['output'],
): Promise<number> {
  if (answer === undefined) {
    await complainOf([error], args.verbose, guest);
    return ExitStatus.failure;
  }
  if (!args.json) {
    const { escapeBytes } = await import('../text.js');
    await output.write(`== ${escapeBytes(guest)} (pid ${pid}) ==\n`);
    await output.write(command.text(answer, args));
  }
  return reportProblems(command, answer, guest);
}

async function reportProblems<Arguments, Answer>(
  command: GuestCommand<Arguments, Answer>,
  answer: Answer,
  guest?: string,
): Promise<number> {
  const problems = command.problems?.(answer) ?? [];
  if (problems.length === 0) return ExitStatus.success;
  await complainOf(problems, false, guest);
  return ExitStatus.failure;
}

async function complainOf(errors: readonly unknown[], verbose: boolean, guest: string | undefined): Promise<void> {
  const { failureDetails, failureLine } = await import('./failure.js');
  for (const error of errors) {
    complain(failureLine(error, guest));
    if (verbose) complain(failureDetails(error));
  }
}

async function reportCosts(guest: Guest): Promise<void> {
  const { steps } = await guest.info();
  const { stops, retries, totalStandstill } = guest.counts;
  for (const { name, milliseconds } of steps) complain(`penumbra: ${name}: ${milliseconds.toFixed(1)} ms`);
  complain(`penumbra: stopped ${stops} times (${retries} in vain), ${totalStandstill.toFixed(2)} ms in all`);
}
