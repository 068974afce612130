import yargs, { type Argv } from 'yargs';
import { printableArgument } from './arguments.js';
import { type AnyCommand, type CommonArguments, UsageError } from './command.js';
import { type CommandEntry, commands } from './commands.js';
import { type Chosen, commonOptions } from './parse.js';

type Parsed = CommonArguments & Record<string, unknown>;

const WIDEST_HELP = 110;
/**
 * Before an argument that follows `--`: it then does not look like an option, and stands where it stood. A lone
 * surrogate that arguments cannot hold.
 */
const PROTECTION = '\udc00';

/** @throws UsageError saying what is wrong with `args` */
export async function parseWithYargs(args: readonly string[]): Promise<Chosen> {
  let chosen: { command: AnyCommand; args: Parsed } | undefined;
  let text = '';
  let parser = configure(yargs());
  for (const entry of commands) {
    parser = addCommand(parser, entry, (command, parsed) => {
      chosen = { command, args: parsed };
    });
  }
  try {
    await parser.parseAsync(protect(args), {}, (_error, _args, output) => {
      text = output;
    });
  } catch (error) {
    throw asUsageError(error);
  }
  return chosen ?? { text: `${text}\n` };
}

function configure(parser: Argv): Argv {
  return parser
    .scriptName('penumbra')
    .usage('$0 COMMAND\n\nLooks into a running virtual machine from its host, with the code of its own kernel.')
    .parserConfiguration({
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'dot-notation': false,
      'boolean-negation': false,
    })
    .options(commonOptions)
    .demandCommand(1, 'no command is given')
    .strict()
    .alias('h', 'help')
    .wrap(Math.min(WIDEST_HELP, process.stdout.columns ?? WIDEST_HELP))
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message, error) => {
      throw error ?? new UsageError(tidy(message));
    });
}

function addCommand(
  parser: Argv,
  { usage, description, load }: CommandEntry,
  take: (command: AnyCommand, args: Parsed) => void,
): Argv {
  let loaded: AnyCommand;
  // yargs awaits what a builder returns; its types do not say so where it is the same parser.
  const build = async (own: Argv): Promise<Argv> => {
    loaded = await load();
    for (const [name, positional] of Object.entries(loaded.positionals ?? {})) own.positional(name, positional);
    own.options(loaded.options ?? {});
    for (const [line, meaning] of loaded.examples) own.example(line, meaning);
    return own;
  };
  return parser.command(usage, description, build as unknown as (own: Argv) => Argv, (args) => {
    take(loaded, restore(args as Record<string, unknown>, loaded) as Parsed);
  });
}

/** Marks what follows `--`, which itself has done its duty then, and a hyphen alone, which yargs would lose. */
function protect(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  const before = (end < 0 ? args : args.slice(0, end)).map((arg) => (arg === '-' ? PROTECTION + arg : arg));
  return end < 0 ? before : [...before, ...args.slice(end + 1).map((arg) => PROTECTION + arg)];
}

/** @throws UsageError for an option that has more than one value */
function restore(args: Record<string, unknown>, { options }: AnyCommand): Record<string, unknown> {
  const restored: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(args)) {
    if (Array.isArray(value) && options !== undefined && name in options) {
      throw new UsageError(`--${name} is given more than once`);
    }
    restored[name] = Array.isArray(value) ? value.map(unprotect) : unprotect(value);
  }
  return restored;
}

function unprotect(value: unknown): unknown {
  return typeof value === 'string' && value.startsWith(PROTECTION) ? value.slice(PROTECTION.length) : value;
}

/** yargs's own complaints; some of them come past `fail`. */
function asUsageError(error: unknown): unknown {
  return error instanceof Error && error.name === 'YError' ? new UsageError(tidy(error.message)) : error;
}

/** One line; the parser's words quote arguments as they are. */
function tidy(message: string): string {
  const lines = message.replaceAll(PROTECTION, '').split('\n');
  return lines
    .map((line) => printableArgument(line.trim()))
    .filter((line) => line !== '')
    .join(', ')
    .replaceAll(':, ', ': ');
}
