import { readFile, readWholeFile } from '../inspect/readFile.js';
import { argumentBytes } from './arguments.js';
import { type Command, ExitStatus } from './command.js';
import { attachOptionsOf, type GuestArguments, type GuestCommand, guestCommand, withGuest } from './guestCommand.js';

interface CatArguments {
  path: string;
}

/** For --json and --all, which need the whole before they print. */
const collected = guestCommand<CatArguments, Buffer>({
  positionals: { path: { type: 'string', describe: 'a file of the guest' } },
  examples: [
    ['penumbra cat /etc/os-release', 'byte for byte, as far as it is in the memory of the guest'],
    ['penumbra cat /proc/1/environ | tr "\\\\0" "\\\\n"', 'files of /proc and /sys as well'],
    ['penumbra cat --json /etc/hostname', '{ "path", "size", "content" }; other than UTF-8 as { "bytes": base64 }'],
  ],
  ask: (guest, { path }) => readWholeFile(guest, argumentBytes(path)),
  text: (content) => content,
  json: (content, { path }) => ({ path: argumentBytes(path), size: content.length, content }),
});

export const cat: Command<CatArguments & GuestArguments> & GuestCommand<CatArguments, Buffer> = {
  ...collected,
  async run(args, context) {
    if (args.json || args.all) return collected.run(args, context);
    await withGuest(attachOptionsOf(args, context.signal), args.verbose, async (guest) => {
      await readFile(guest, argumentBytes(args.path), (piece) => context.output.write(piece));
    });
    return ExitStatus.success;
  },
};
