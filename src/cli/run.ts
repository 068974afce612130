import { argumentBytes } from './arguments.js';
import { type Command, ExitStatus, UsageError } from './command.js';
import { attachOptionsOf, type GuestArguments, guestOptions, wholeNumber, withGuest } from './guestCommand.js';
import { complain } from './output.js';

interface RunArguments {
  tool: string[];
  scratch: boolean;
  budget: string;
  env?: string;
}

const LONGEST_BUDGET = 86_400_000;

export const run: Command<RunArguments & GuestArguments> = {
  positionals: {
    tool: { type: 'string', array: true, describe: 'a program of this host and its arguments, after --' },
  },
  options: {
    scratch: { type: 'boolean', describe: 'let writes succeed in the shadow, where they vanish' },
    budget: {
      type: 'string',
      default: '200',
      requiresArg: true,
      describe:
        "ms after which the guest's RAM is copied so that the guest can run on; 0: it stands until the tool ends",
    },
    env: { type: 'string', requiresArg: true, describe: 'NAME=VALUE for the tool' },
    ...guestOptions,
  },
  examples: [
    ['penumbra run -- ps -ef', "this host's ps, answered by the guest's kernel"],
    ["penumbra run -- sh -c 'ss -tan | grep LISTEN'", 'pipelines too'],
    ['penumbra run --scratch -- touch /etc/x', 'what is written vanishes with the shadow'],
  ],
  async run(args, { signal }) {
    const words = args.tool.map(argumentBytes);
    if (words.length === 0) throw new UsageError('run needs a tool: penumbra run -- TOOL [ARGUMENTS]');
    const options = {
      scratch: args.scratch === true,
      budget: wholeNumber('budget', args.budget, LONGEST_BUDGET, 0),
      environment: args.env === undefined ? [] : [variable(args.env)],
      signal,
    };
    const result = await withGuest(attachOptionsOf(args, signal), args.verbose, (guest) => guest.run(words, options));
    if (args.verbose) {
      const { total, handling, guest } = result.milliseconds;
      const times = `${total.toFixed(1)} ms, ${handling.toFixed(1)} of it in the supervisor, ${guest.toFixed(1)} in the guest's kernel`;
      complain(`penumbra: ${result.notifications} calls, ${result.guestCalls} to the guest: ${times}`);
    }
    return result.exit ?? ExitStatus.failure;
  },
};

/** @throws UsageError */
function variable(text: string): string {
  if (/^[A-Za-z_]\w*=/.test(text)) return text;
  throw new UsageError(`--env is NAME=VALUE, not '${text}'`);
}
