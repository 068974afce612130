import { type ParseArgsConfig, parseArgs } from 'node:util';
import type { Options, PositionalOptions } from 'yargs';
import type { AnyCommand, CommonArguments } from './command.js';
import { commands } from './commands.js';
import { type Chosen, commonOptions } from './parse.js';

/**
 * Takes a command line apart that is plainly right by what its command declares: `penumbra ls -lR --guest web /etc`.
 * @returns undefined for every other, which is then for yargs to judge
 */
export async function parseOrdinary(args: readonly string[]): Promise<Chosen | undefined> {
  const [name, ...rest] = args;
  const entry = commands.find(({ usage }) => usage.split(' ')[0] === name);
  if (entry === undefined) return undefined;
  const command = await entry.load();
  const options = { ...commonOptions, ...command.options };
  const words = takeOptions(rest, options);
  if (words === undefined || !areAccepted(words.values, options)) return undefined;
  const positionals = takePositionals(entry.usage, words.positionals, command.positionals ?? {});
  if (positionals === undefined) return undefined;
  const values = { ...defaultsOf(options), ...words.values, ...positionals };
  return {
    command: command satisfies AnyCommand,
    args: values as unknown as CommonArguments & Record<string, unknown>,
  };
}

interface Words {
  values: Record<string, string | boolean>;
  positionals: string[];
}

function takeOptions(args: readonly string[], options: Record<string, Options>): Words | undefined {
  const entries = Object.entries(options).map(([name, { type, alias }]) => [
    name,
    { type: type === 'boolean' ? 'boolean' : 'string', ...(typeof alias === 'string' && { short: alias }) },
  ]);
  try {
    const parsed = parseArgs({
      args: [...args],
      options: Object.fromEntries(entries) as ParseArgsConfig['options'] & object,
      allowPositionals: true,
      tokens: true,
    });
    const named = parsed.tokens.filter((token) => token.kind === 'option');
    const areDoubtful = named.some(
      ({ name, value }, at) => value === '' || named.findIndex((o) => o.name === name) < at,
    );
    return areDoubtful
      ? undefined
      : { values: { ...parsed.values } as Words['values'], positionals: parsed.positionals };
  } catch {
    return undefined;
  }
}

function areAccepted(values: Words['values'], options: Record<string, Options>): boolean {
  return Object.entries(values).every(([name, value]) => {
    const { choices, conflicts } = options[name] as Options;
    const excluded = Array.isArray(conflicts) ? conflicts : [];
    return (
      (choices === undefined || choices.some((choice) => choice === value)) &&
      !excluded.some((other) => other in values)
    );
  });
}

/** Matches words with `<required>`, `[optional]` and `[several..]` of the usage line. */
function takePositionals(
  usage: string,
  words: readonly string[],
  declared: Record<string, PositionalOptions>,
): Record<string, unknown> | undefined {
  const values: Record<string, unknown> = {};
  let next = 0;
  for (const [, bracket, name = '', several] of usage.matchAll(/([<[])(\w+)(\.\.)?[>\]]/g)) {
    const { default: fallback, choices } = declared[name] ?? {};
    if (several !== undefined) {
      values[name] = words.slice(next);
      next = words.length;
      continue;
    }
    const word = words[next] ?? fallback;
    next += 1;
    if (word === undefined && bracket === '<') return undefined;
    if (word !== undefined && choices !== undefined && !choices.includes(word)) return undefined;
    if (word !== undefined) values[name] = word;
  }
  return next < words.length ? undefined : values;
}

function defaultsOf(options: Record<string, Options>): Record<string, unknown> {
  const defaults = Object.entries(options).filter(([, option]) => option.default !== undefined);
  return Object.fromEntries(defaults.map(([name, option]) => [name, option.default]));
}
