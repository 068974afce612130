import { type Accounts, readAccounts } from '../inspect/accounts.js';
import { statFile } from '../inspect/fileStatus.js';
import type { FileType, NamedFile } from '../inspect/records.js';
import { quoteBytes } from '../text.js';
import { argumentBytes } from './arguments.js';
import { instant } from './clock.js';
import { modeText } from './fileMode.js';
import { guestCommand } from './guestCommand.js';
import { ownerName } from './ownerName.js';

interface StatArguments {
  path: string;
  dereference: boolean;
}

interface StatAnswer {
  file: NamedFile;
  accounts: Accounts;
}

const TYPES: Record<FileType, string> = {
  file: 'regular file',
  directory: 'directory',
  symlink: 'symbolic link',
  characterDevice: 'character special file',
  blockDevice: 'block special file',
  fifo: 'fifo',
  socket: 'socket',
  unknown: 'weird file',
};

export const stat = guestCommand<StatArguments, StatAnswer>({
  positionals: { path: { type: 'string', describe: 'a file of the guest' } },
  options: {
    dereference: { alias: 'L', type: 'boolean', describe: 'what a symbolic link leads to' },
  },
  examples: [
    ['penumbra stat /etc/passwd', 'as stat(1) in the guest shows it'],
    ['penumbra stat --json /var/log/wtmp | jq .size', 'times in JSON are nanoseconds since the epoch, as strings'],
  ],
  async ask(guest, { path, dereference }) {
    const file = await statFile(guest, argumentBytes(path), { follow: dereference });
    return { file, accounts: await readAccounts(guest) };
  },
  text: ({ file, accounts }) => describe(file, accounts),
  json: ({ file, accounts }) => ({
    ...file,
    user: accounts.users.get(file.uid),
    group: accounts.groups.get(file.gid),
  }),
});

function describe(file: NamedFile, { users, groups }: Accounts): string {
  const { path, target, type, mode, dev, rdev } = file;
  const permissions = (mode & 0o7777).toString(8).padStart(4, '0');
  const device = rdev === undefined ? '' : ` Device type: ${rdev.major},${rdev.minor}`;
  const owner = (names: ReadonlyMap<number, Buffer>, id: number): string =>
    `(${String(id).padStart(5)}/${ownerName(names, id).padStart(8)})`;
  return [
    `  File: ${quoteBytes(path)}${target === undefined ? '' : ` -> ${quoteBytes(target)}`}`,
    `  Size: ${pad(file.size)} Blocks: ${pad(file.blocks)} IO Block: ${pad(file.blksize)} ${TYPES[type]}`,
    `Device: ${pad(`${dev.major},${dev.minor}`)} Inode: ${pad(file.ino)} Links: ${file.nlink}${device}`,
    `Access: (${permissions}/${modeText(type, mode)})  Uid: ${owner(users, file.uid)}   Gid: ${owner(groups, file.gid)}`,
    `Access: ${instant(file.atimeNs)}`,
    `Modify: ${instant(file.mtimeNs)}`,
    `Change: ${instant(file.ctimeNs)}`,
    ` Birth: ${file.btimeNs === undefined ? '-' : instant(file.btimeNs)}`,
    '',
  ].join('\n');
}

function pad(value: bigint | number | string): string {
  return String(value).padEnd(10);
}
