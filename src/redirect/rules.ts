import { readFileSync } from 'node:fs';
import { PenumbraError } from '../errors.js';

/** What is done with a call; the head of profiles/redirection.x86_64 tells what each means. */
export const ACTIONS = ['free', 'here', 'guest', 'path', 'scratch', 'refuse', 'absent', 'handler'] as const;
export type Action = (typeof ACTIONS)[number];

/** One call's line in profiles/redirection.x86_64. */
export interface RedirectionRule {
  name: string;
  action: Action;
  /** of native/redirect/handlers.cc */
  handler?: string;
  /** the values that one argument may have */
  only?: { argument: string; values: readonly bigint[] };
}

const PROFILE = new URL('../../../profiles/redirection.x86_64', import.meta.url);
const CONDITION = /^([a-z_]\w*)=(\d+(?:,\d+)*)$/;
const HANDLER = /^handler:([a-z][a-z0-9-]*)$/;

/** The rules of profiles/redirection.x86_64 by the call's name. @throws PenumbraError INTERNAL naming the line */
export function redirectionRules(text = readFileSync(PROFILE, 'utf8')): ReadonlyMap<string, RedirectionRule> {
  const rules = new Map<string, RedirectionRule>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    for (const rule of parseLine(line.split(/\s+/), index + 1)) {
      if (rules.has(rule.name)) throw malformed(index + 1, `${rule.name} occurs twice`);
      rules.set(rule.name, rule);
    }
  }
  return rules;
}

function parseLine([first = '', ...words]: string[], line: number): RedirectionRule[] {
  const handler = HANDLER.exec(first)?.[1];
  const action =
    ACTIONS.find((name) => name === first && name !== 'handler') ?? (handler === undefined ? undefined : 'handler');
  if (action === undefined) throw malformed(line, `no rule '${first}'`);
  const only = words[0] === 'only' ? parseCondition(words[1] ?? '', line) : undefined;
  const names = only === undefined ? words : words.slice(2);
  return names
    .filter((name) => name !== '')
    .map((name) => ({
      name,
      action,
      ...(handler === undefined ? {} : { handler }),
      ...(only === undefined ? {} : { only }),
    }));
}

function parseCondition(text: string, line: number): { argument: string; values: readonly bigint[] } {
  const match = CONDITION.exec(text);
  if (match === null) throw malformed(line, `'${text}' is no condition`);
  return { argument: match[1] as string, values: (match[2] as string).split(',').map(BigInt) };
}

function malformed(line: number, why: string): PenumbraError {
  return new PenumbraError('INTERNAL', `profiles/redirection.x86_64 line ${line}: ${why}`);
}
