import type { Options } from 'yargs';
import { type AnyCommand, type CommonArguments, UsageError } from './command.js';

/** A command with its arguments, or text that was asked for instead (help, the version). */
export type Chosen = { command: AnyCommand; args: CommonArguments & Record<string, unknown> } | { text: string };

/** Options of every command. */
export const commonOptions: Record<string, Options> = {
  json: { type: 'boolean', describe: 'one JSON document instead of text' },
  verbose: { type: 'boolean', describe: 'say on standard error what was done, and where an error came from' },
};

const TOOL_PLACE = 'a tool and its options come after --';

/**
 * What the arguments ask for. An ordinary command line is taken apart here: loading yargs takes as long as the work of
 * many a command. yargs gets all others: those that ask for help, and those that are wrong.
 * @throws UsageError saying what is wrong with `args`
 */
export async function parseCommandLine(args: readonly string[]): Promise<Chosen> {
  const { parseOrdinary } = await import('./parseOrdinary.js');
  const chosen = await parseOrdinary(args);
  if (chosen !== undefined) return chosen;
  const { parseWithYargs } = await import('./parseWithYargs.js');
  try {
    return await parseWithYargs(args);
  } catch (error) {
    const isToolBare = args[0] === 'run' && !args.includes('--');
    throw isToolBare && error instanceof UsageError ? new UsageError(`${error.message}: ${TOOL_PLACE}`) : error;
  }
}
