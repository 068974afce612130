import { type FindReport, findFiles } from '../inspect/findFiles.js';
import type { FileType } from '../inspect/records.js';
import { escapeBytes } from '../text.js';
import { argumentBytes } from './arguments.js';
import { UsageError } from './command.js';
import { guestCommand, wholeNumber } from './guestCommand.js';

interface FindArguments {
  path: string;
  name?: string;
  type?: string;
  maxdepth?: string;
  mindepth?: string;
  print0: boolean;
}

const TYPES: Record<string, FileType> = {
  f: 'file',
  d: 'directory',
  l: 'symlink',
  c: 'characterDevice',
  b: 'blockDevice',
  p: 'fifo',
  s: 'socket',
};
const DEEPEST = 1_000_000;

export const find = guestCommand<FindArguments, FindReport>({
  positionals: { path: { type: 'string', default: '/', describe: 'where to begin' } },
  options: {
    name: { type: 'string', requiresArg: true, describe: 'shell pattern for the last part of the path' },
    type: { type: 'string', requiresArg: true, describe: 'letters of find(1): f d l c b p s, several with commas' },
    maxdepth: { type: 'string', requiresArg: true, describe: 'levels to go down' },
    mindepth: { type: 'string', requiresArg: true, describe: 'levels above which nothing is shown' },
    print0: { type: 'boolean', describe: 'paths as they are, each ended by a NUL byte' },
  },
  examples: [
    ["penumbra find /etc --name '*.conf'", 'symbolic links are not followed'],
    ['penumbra find /var --type f --maxdepth 2 --print0 | xargs -0 -n1 echo', 'paths as bytes'],
  ],
  check: (args) => void findOptions(args),
  ask: (guest, args) => findFiles(guest, argumentBytes(args.path), findOptions(args)),
  text({ found }, { print0 }) {
    if (print0) return Buffer.concat(found.flatMap(({ path }) => [path, Buffer.alloc(1)]));
    return found.map(({ path }) => `${escapeBytes(path)}\n`).join('');
  },
  problems: ({ unreadable }) => unreadable.map(({ error }) => error),
});

function findOptions({ name, type, maxdepth, mindepth }: FindArguments) {
  return {
    ...(name === undefined ? {} : { name: argumentBytes(name) }),
    ...(type === undefined ? {} : { type: type.split(',').map(typeOfLetter) }),
    ...(maxdepth === undefined ? {} : { maxDepth: wholeNumber('maxdepth', maxdepth, DEEPEST, 0) }),
    ...(mindepth === undefined ? {} : { minDepth: wholeNumber('mindepth', mindepth, DEEPEST, 0) }),
  };
}

function typeOfLetter(letter: string): FileType {
  const type = Object.hasOwn(TYPES, letter) ? TYPES[letter] : undefined;
  if (type === undefined) throw new UsageError(`--type is one of ${Object.keys(TYPES).join(' ')}, not '${letter}'`);
  return type;
}
