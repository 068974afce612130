/** The command line: parses it, runs the one command that was chosen, and turns how that ended into an exit status. */
import { setTimeout as sleep } from 'node:timers/promises';
import { commandLineArguments } from './arguments.js';
import { type Context, ExitStatus, UsageError } from './command.js';
import { commands } from './commands.js';
import { complain, Output, OutputClosed } from './output.js';
import { parseCommandLine } from './parse.js';

const SIGNALS = { SIGINT: ExitStatus.interrupted, SIGTERM: ExitStatus.terminated } as const;

/** How long an interrupted write may go on, ms. */
const LAST_WRITE_MS = 50;

/** Why everything is to be taken down. */
class Interrupted extends Error {
  constructor(readonly signal: keyof typeof SIGNALS) {
    super(`interrupted by ${signal}`);
  }
}

async function main(): Promise<number> {
  const stop = new AbortController();
  const output = new Output((reason) => stop.abort(reason));
  watchSignals(stop);
  let verbose = false;
  try {
    const chosen = await parseCommandLine(commandLineArguments());
    if ('text' in chosen) {
      await output.write(chosen.text);
      return ExitStatus.success;
    }
    verbose = chosen.args.verbose;
    const context: Context = { output, signal: stop.signal };
    return await chosen.command.run(chosen.args, context);
  } catch (error) {
    if (!stop.signal.aborted) return await report(error, verbose);
    if (error !== stop.signal.reason) await report(error, verbose);
    return statusOfEnd(stop.signal.reason);
  } finally {
    await letWritesEnd(stop.signal, output);
  }
}

/**
 * A write that waits for its reader is waited for by exit(3) as well: then only the signal's own effect ends this
 * process, which for a shell is the same status.
 */
async function letWritesEnd({ reason }: AbortSignal, output: Output): Promise<void> {
  for (let waited = 0; output.isPending && waited < LAST_WRITE_MS; waited += 1) await sleep(1);
  if (output.isPending) process.kill(process.pid, reason instanceof Interrupted ? reason.signal : 'SIGKILL');
}

/** The first signal ends things in order, the second at once: the guest's watchdog then does what is left to do. */
function watchSignals(stop: AbortController): void {
  for (const name of Object.keys(SIGNALS) as (keyof typeof SIGNALS)[]) {
    process.once(name, () => stop.abort(new Interrupted(name)));
  }
}

function statusOfEnd(reason: unknown): number {
  if (reason instanceof Interrupted) return SIGNALS[reason.signal];
  return reason instanceof OutputClosed ? ExitStatus.success : ExitStatus.failure;
}

async function report(error: unknown, verbose: boolean): Promise<number> {
  if (error instanceof UsageError) {
    complain(`penumbra: ${error.message} (${helpLine()})`);
    return ExitStatus.usage;
  }
  const { failureLine, failureDetails } = await import('./failure.js');
  complain(failureLine(error));
  if (verbose) complain(failureDetails(error));
  return ExitStatus.failure;
}

/** Where to read on. Only what is the name of a command is repeated. */
function helpLine(): string {
  const name = process.argv[2] ?? '';
  const isCommand = commands.some(({ usage }) => usage.split(' ')[0] === name);
  return isCommand ? `penumbra ${name} --help` : 'penumbra --help';
}

const status = await main();
process.exit(status);
