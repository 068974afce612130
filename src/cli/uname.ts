import type { SystemName } from '../inspect/records.js';
import { uname as askUname } from '../inspect/uname.js';
import { escapeBytes } from '../text.js';
import { guestCommand } from './guestCommand.js';

const PARTS = { s: 'sysname', n: 'nodename', r: 'release', v: 'version', m: 'machine' } as const;
type Letter = keyof typeof PARTS;
type UnameArguments = { [letter in Letter]: boolean };

const LETTERS = Object.keys(PARTS) as Letter[];

export const uname = guestCommand<UnameArguments, SystemName>({
  options: Object.fromEntries(
    LETTERS.map((letter) => [letter, { type: 'boolean', describe: `the ${PARTS[letter]} only` }]),
  ),
  examples: [
    ['penumbra uname', 'everything, as `uname -a` in the guest prints it'],
    ['penumbra uname -r', "the kernel's release"],
  ],
  ask: (guest) => askUname(guest),
  text(name, args) {
    const asked = LETTERS.filter((letter) => args[letter]);
    const parts = (asked.length > 0 ? asked : LETTERS).map((letter) => name[PARTS[letter]]);
    return `${parts.map((part) => escapeBytes(part)).join(' ')}\n`;
  },
});
