import { type Accounts, noAccounts, readAccounts } from '../inspect/accounts.js';
import { type DirectoryReport, listDirectory } from '../inspect/listDirectory.js';
import type { DirectoryEntry, FileStatus, Listing } from '../inspect/records.js';
import { escapeBytes } from '../text.js';
import { argumentBytes } from './arguments.js';
import { minute } from './clock.js';
import { modeText } from './fileMode.js';
import { guestCommand } from './guestCommand.js';
import { ownerName } from './ownerName.js';
import { type Column, table } from './table.js';

interface LsArguments {
  path: string;
  long: boolean;
  recursive: boolean;
  hidden: boolean;
  directory: boolean;
}

interface LsAnswer extends DirectoryReport {
  accounts: Accounts;
}

export const ls = guestCommand<LsArguments, LsAnswer>({
  positionals: { path: { type: 'string', default: '/', describe: 'a directory or file of the guest' } },
  options: {
    long: { alias: 'l', type: 'boolean', describe: 'mode, links, owner, size, time, target of links' },
    recursive: { alias: 'R', type: 'boolean', describe: 'the directories below too' },
    hidden: { alias: 'a', type: 'boolean', describe: 'names that begin with a dot too' },
    directory: { alias: 'd', type: 'boolean', describe: 'the directory itself' },
  },
  examples: [
    ['penumbra ls -l /etc', 'with owners by the names in the guest'],
    ['penumbra ls -laR /home', 'all there is below /home'],
    ['penumbra ls --json /proc/1/fd', 'names that are not UTF-8 are given as { "bytes": base64 }'],
  ],
  async ask(guest, { path, long, recursive, hidden, directory, json }) {
    const status = long || json;
    const report = await listDirectory(guest, argumentBytes(path), { recursive, hidden, status, self: directory });
    return { ...report, accounts: status ? await readAccounts(guest) : noAccounts };
  },
  text({ isDirectory, listings, accounts }, { long, recursive }) {
    const blocks = listings.map((listing) => {
      const heading = recursive && isDirectory ? `${escapeBytes(listing.path)}:\n` : '';
      return heading + (long ? longListing(listing, accounts, isDirectory) : shortListing(listing));
    });
    return blocks.join('\n');
  },
  json: ({ listings, unreadable, accounts }) => ({
    directories: listings.map(({ path, entries }) => ({
      path,
      entries: entries.map((entry) => jsonEntry(entry, accounts)),
    })),
    unreadable,
  }),
  problems: ({ unreadable }) => unreadable.map(({ error }) => error),
});

/** One object for an entry: its name, then what is known of it. */
function jsonEntry({ name, ino, type, status, target }: DirectoryEntry, { users, groups }: Accounts) {
  const owner = status && { user: users.get(status.uid), group: groups.get(status.gid) };
  return { name, ino, ...status, ...owner, type, target };
}

function shortListing({ entries }: Listing): string {
  return entries.map(({ name }) => `${escapeBytes(name)}\n`).join('');
}

function longListing({ entries }: Listing, accounts: Accounts, withTotal: boolean): string {
  const blocks = entries.reduce((sum, { status }) => sum + (status?.blocks ?? 0n), 0n);
  const total = withTotal ? `total ${blocks / 2n}\n` : '';
  return total + table(longColumns(accounts), entries, false);
}

function longColumns({ users, groups }: Accounts): Column<DirectoryEntry>[] {
  const known = (text: (status: FileStatus) => string) => (entry: DirectoryEntry) =>
    entry.status === undefined ? '?' : text(entry.status);
  return [
    {
      title: '',
      text: ({ type, status }) => (status ? modeText(type, status.mode) : `${modeText(type, 0)[0]}?????????`),
    },
    { title: '', text: known(({ nlink }) => String(nlink)), align: 'right' },
    { title: '', text: known(({ uid }) => ownerName(users, uid)) },
    { title: '', text: known(({ gid }) => ownerName(groups, gid)) },
    { title: '', text: known(sizeText), align: 'right' },
    { title: '', text: known(({ mtimeNs }) => minute(mtimeNs)) },
    { title: '', text: ({ name, target }) => escapeBytes(name) + (target ? ` -> ${escapeBytes(target)}` : '') },
  ];
}

/** For a device its numbers stand where the size would. */
function sizeText({ size, rdev }: FileStatus): string {
  return rdev === undefined ? String(size) : `${rdev.major}, ${rdev.minor}`;
}
