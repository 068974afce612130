import yargs, { type Argv, type Options } from 'yargs';
import { printableArgument } from './arguments.js';
import { type AnyCommand, type CommonArguments, UsageError } from './command.js';
import { type CommandEntry, commands } from './commands.js';

/** A command with its arguments, or text that was asked for instead (help, the version). */
export type Chosen = { command: AnyCommand; args: CommonArguments & Record<string, unknown> } | { text: string };

const COMMON: Record<string, Options> = {
  json: { type: 'boolean', describe: 'one JSON document instead of text' },
  verbose: { type: 'boolean', describe: 'say on standard error what was done, and where an error came from' },
};
const WIDEST_HELP = 110;

/** @throws UsageError saying what is wrong with `args` */
export async function parseCommandLine(args: readonly string[]): Promise<Chosen> {
  let chosen: Chosen | undefined;
  let text = '';
  const parser = commands.reduce(
    (built, entry) => addCommand(built, entry, (found) => { chosen = found; }),
    configure(yargs()),
  );
  await parser.parseAsync(args as string[], {}, (_error, _args, output) => { text = output; });
  if (chosen === undefined) return { text: `${text}\n` };
  return chosen;
}

function configure(parser: Argv): Argv {
  return parser
    .scriptName('penumbra')
    .usage('$0 COMMAND\n\nLooks into a running virtual machine from its host, with the code of its own kernel.')
    .parserConfiguration({
      'parse-numbers': false,
      'parse-positional-numbers': false,
      'dot-notation': false,
      'duplicate-arguments-array': false,
      'boolean-negation': false,
    })
    .options(COMMON)
    .demandCommand(1, 'say what to do: penumbra COMMAND (penumbra --help)')
    .strict()
    .alias('h', 'help')
    .wrap(Math.min(WIDEST_HELP, process.stdout.columns ?? WIDEST_HELP))
    .exitProcess(false)
    .showHelpOnFail(false)
    .fail((message, error) => {
      throw message ? new UsageError(tidy(message)) : error;
    });
}

function addCommand(parser: Argv, { usage, description, load }: CommandEntry, take: (chosen: Chosen) => void): Argv {
  let loaded: AnyCommand;
  return parser.command(
    usage,
    description,
    // Asynchronous builders work in yargs 18; its types do not say so for the return value.
    (async (own: Argv) => {
      loaded = await load();
      for (const [name, positional] of Object.entries(loaded.positionals ?? {})) own.positional(name, positional);
      own.options(loaded.options ?? {});
      for (const [line, meaning] of loaded.examples) own.example(line, meaning);
      return own;
    }) as unknown as (own: Argv) => Argv,
    (args) => take({ command: loaded, args: args as unknown as CommonArguments & Record<string, unknown> }),
  );
}

/** The parser's words quote arguments as they are. */
function tidy(message: string): string {
  return message.split('\n').map((line) => printableArgument(line.trim())).filter((line) => line !== '').join(': ');
}

