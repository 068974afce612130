import type { Options, PositionalOptions } from 'yargs';
import type { Output } from './output.js';

/** What a command was called with: the options everybody has, and its own. */
export interface CommonArguments {
  json: boolean;
  verbose: boolean;
}

/** What a command has around it. */
export interface Context {
  output: Output;
  /** aborted by Ctrl-C, and when nobody reads the output any more */
  signal: AbortSignal;
}

/** A command as the command line shows it. Its file is loaded only when it is the one that was chosen. */
export interface Command<Arguments> {
  /** for each positional argument of the usage line */
  positionals?: Record<string, PositionalOptions>;
  options?: Record<string, Options>;
  /** a command line and what it does */
  examples: readonly (readonly [string, string])[];
  /** @returns the exit status */
  run(args: Arguments & CommonArguments, context: Context): Promise<number>;
}

/** Any command: what the parser gives is what its positionals and options say. */
// biome-ignore lint/suspicious/noExplicitAny: the arguments of each command are its own
export type AnyCommand = Command<any>;

/** A mistake in how the command was called. Exit status 2. */
export class UsageError extends Error {}

export const ExitStatus = { success: 0, failure: 1, usage: 2, interrupted: 130, terminated: 143 } as const;
