import { PenumbraError } from '../errors.js';
import type { Guest } from '../index.js';
import type { RunOptions, RunResult } from '../redirect/run.js';
import { argumentBytes } from './arguments.js';
import { type Command, type Context, ExitStatus, UsageError } from './command.js';
import { failureLine } from './failure.js';
import { attachOptionsOf, type GuestArguments, guestOptions, wholeNumber, withGuest } from './guestCommand.js';
import { complain } from './output.js';

interface RunArguments {
  tool: string[];
  scratch: boolean;
  budget: string;
  env?: string;
}

type Arguments = RunArguments & GuestArguments;

/** How the tool ended on one guest, for --all and --json. */
interface Outcome {
  guest: string;
  exit?: number;
  stdout?: Buffer;
  stderr?: Buffer;
  error?: unknown;
}

/** As shells and env(1) have it. */
const ToolStatus = { cannotExecute: 126, notFound: 127 } as const;
const LONGEST_BUDGET = 86_400_000;

export const run: Command<Arguments> = {
  positionals: {
    tool: { type: 'string', array: true, describe: 'a program of this host and its arguments, after --' },
  },
  options: {
    scratch: { type: 'boolean', describe: 'let writes succeed in the shadow, where they vanish' },
    budget: {
      type: 'string',
      default: '200',
      requiresArg: true,
      describe: "ms after which the guest's RAM is copied so that it can run on; 0: it stands until the tool ends",
    },
    env: { type: 'string', requiresArg: true, describe: 'NAME=VALUE for the tool' },
    ...guestOptions,
  },
  examples: [
    ['penumbra run -- ps -ef', "this host's ps, answered by the guest's kernel"],
    ["penumbra run -- sh -c 'ss -tan | grep LISTEN'", 'pipelines too'],
    ['penumbra run --scratch -- touch /etc/x', 'what is written vanishes with the shadow'],
    ['penumbra run --all -- uname -r', 'on every guest at once'],
  ],
  async run(args, context) {
    const words = args.tool.map(argumentBytes);
    if (words.length === 0) throw new UsageError('run needs a tool: penumbra run -- TOOL [ARGUMENTS]');
    const unsuitable = await unsuitableTool(words);
    if (unsuitable !== undefined) return unsuitable;
    const options = {
      scratch: args.scratch === true,
      budget: wholeNumber('budget', args.budget, LONGEST_BUDGET, 0),
      environment: args.env === undefined ? [] : [variable(args.env)],
      signal: context.signal,
    };
    if (args.all || args.json) return runCaptured(args, words, options, context);
    const result = await withGuest(attachOptionsOf(args, context.signal), args.verbose, (guest) =>
      guest.run(words, options),
    );
    if (args.verbose) reportRun(result);
    return result.exit;
  },
};

/** Says why there is no such tool, before any guest is touched. */
async function unsuitableTool(words: readonly Buffer[]): Promise<number | undefined> {
  const { findTool } = await import('../redirect/tool.js');
  try {
    findTool(words);
    return undefined;
  } catch (error) {
    complain(failureLine(error));
    return error instanceof PenumbraError && error.code === 'NO_TOOL' ? ToolStatus.notFound : ToolStatus.cannotExecute;
  }
}

async function runCaptured(args: Arguments, words: Buffer[], options: RunOptions, context: Context): Promise<number> {
  const outcomes = args.all
    ? await runOnAll(args, words, options, context)
    : [await withGuest(attachOptionsOf(args, context.signal), args.verbose, (guest) => runOn(guest, words, options))];
  context.signal.throwIfAborted();
  if (args.json) await context.output.json(args.all ? outcomes.map(toJson) : toJson(outcomes[0] as Outcome));
  else for (const outcome of outcomes) await print(outcome, context);
  return Math.max(ExitStatus.success, ...outcomes.map(({ exit }) => exit ?? ExitStatus.failure));
}

/** One that fails does not keep the others from answering. */
async function runOnAll(
  args: Arguments,
  words: Buffer[],
  options: RunOptions,
  { signal }: Context,
): Promise<Outcome[]> {
  const { listGuests } = await import('../index.js');
  return Promise.all(
    (await listGuests()).map(async ({ name, pid }): Promise<Outcome> => {
      try {
        const choice = { ...attachOptionsOf(args, signal), guest: String(pid) };
        return await withGuest(choice, args.verbose, (guest) => runOn(guest, words, options));
      } catch (error) {
        return { guest: name, error };
      }
    }),
  );
}

async function runOn(guest: Guest, words: Buffer[], options: RunOptions): Promise<Outcome> {
  const { captured } = await import('../redirect/capture.js');
  const { result, stdout, stderr } = await captured((fds) => guest.run(words, { ...options, fds }));
  return { guest: guest.name, exit: result.exit, stdout, stderr };
}

function toJson({ guest, error, exit, stdout, stderr }: Outcome): object {
  return error === undefined ? { guest, ok: true, exit, stdout, stderr } : { guest, ok: false, error };
}

/** Every line with the guest's name in front. */
async function print({ guest, error, stdout, stderr }: Outcome, { output }: Context): Promise<void> {
  if (error !== undefined) {
    complain(failureLine(error, guest));
    return;
  }
  const { escapeBytes } = await import('../text.js');
  const name = Buffer.from(escapeBytes(guest)).toString('latin1');
  const lines = (text: Buffer | undefined): string[] =>
    text === undefined || text.length === 0 ? [] : text.toString('latin1').replace(/\n$/, '').split('\n');
  for (const line of lines(stderr)) complain(Buffer.from(`${name}: ${line}`, 'latin1').toString());
  await output.write(
    Buffer.from(
      lines(stdout)
        .map((line) => `${name}: ${line}\n`)
        .join(''),
      'latin1',
    ),
  );
}

function reportRun({ milliseconds, notifications, guestCalls }: RunResult): void {
  const { total, handling, guest } = milliseconds;
  const times = `${total.toFixed(1)} ms, ${handling.toFixed(1)} of it in the supervisor, ${guest.toFixed(1)} in the guest's kernel`;
  complain(`penumbra: ${notifications} calls, ${guestCalls} to the guest: ${times}`);
}

/** @throws UsageError */
function variable(text: string): string {
  if (/^[A-Za-z_]\w*=/.test(text)) return text;
  throw new UsageError(`--env is NAME=VALUE, not '${text}'`);
}
