import { GuestError, type PenumbraError } from '../errors.js';
import { O_DIRECTORY, O_RDONLY } from '../shadow/constants.js';
import { CallError } from '../shadow/failure.js';
import type { NativeStepResult } from '../shadow/nativeCall.js';
import type { StepList } from '../shadow/stepList.js';
import { type Folder, inOrder, walk } from './directory.js';
import { addReadLink, addStatus, readTarget, requireStatus, statInMoment } from './fileStatus.js';
import { joinPath, openLongPath, withoutNul } from './guestPath.js';
import { Moment, type Question, type ShadowSource } from './moment.js';
import { aboutPath } from './notInMemory.js';
import type { DirectoryEntry, Listing, Unreadable } from './records.js';

export interface ListOptions {
  /** the directories below too */
  recursive?: boolean;
  /** names that begin with a dot too; by default they are left out, and directories of such a name not gone into */
  hidden?: boolean;
  /** what stat says of each entry, and where symbolic links lead */
  status?: boolean;
  /** the directory itself instead of what is in it */
  self?: boolean;
}

export interface DirectoryReport {
  /** false when `path` is listed itself: it is no directory, or `self` was asked for */
  isDirectory: boolean;
  /** the directory, and with `recursive` those below it, parents first; entries are sorted by their bytes */
  listings: Listing[];
  unreadable: Unreadable[];
}

/** Entries that share the opening of their directory. */
const ENTRIES_TOGETHER = 256;
const DOT = 0x2e;

/**
 * The contents of a directory, in one moment of the guest unless some of it is not in memory. A file that is no
 * directory is listed itself; a symbolic link is followed unless `status` is asked for.
 * @throws GuestError when there is no such file, or it may not be read; PenumbraError DEVICE_ACCESS when it is not in the
 *   guest's memory, CORRUPT, UNSUPPORTED (larger than what is sane)
 */
export async function listDirectory(
  source: ShadowSource,
  path: string | Buffer,
  options: ListOptions = {},
): Promise<DirectoryReport> {
  const start = withoutNul(path);
  await using moment = new Moment(source);
  if (options.self === true) return await listItself(moment, start);
  try {
    return await listContents(moment, start, options);
  } catch (error) {
    const isNone = error instanceof GuestError && ['ENOTDIR', 'ENOENT', 'ELOOP'].includes(error.errno);
    if (!isNone) throw error;
    return await listItself(moment, start);
  }
}

async function listItself(moment: Moment, path: Buffer): Promise<DirectoryReport> {
  const { path: _, target, ...status } = await statInMoment(moment, path, {});
  const entry: DirectoryEntry = { name: path, ino: status.ino, type: status.type, status };
  if (target !== undefined) entry.target = target;
  return { isDirectory: false, listings: [{ path, entries: [entry] }], unreadable: [] };
}

async function listContents(moment: Moment, start: Buffer, options: ListOptions): Promise<DirectoryReport> {
  const { root, unreadable } = await walk(moment, start, {
    levels: options.recursive ? Number.POSITIVE_INFINITY : 1,
    noFollow: options.status === true,
    keep: () => true,
    isAll: options.status !== true,
    ...(options.hidden ? {} : { consider: (entry) => entry.name[0] !== DOT }),
  });
  const folders = [...inOrder(root)];
  if (options.status) unreadable.push(...(await addStatuses(moment, folders)));
  return { isDirectory: true, listings: folders.map(({ path, entries }) => ({ path, entries })), unreadable };
}

interface Group {
  path: Buffer;
  entries: DirectoryEntry[];
}

/** Asks for the status of every entry. @returns those for which there was none */
async function addStatuses(moment: Moment, folders: readonly Folder[]): Promise<Unreadable[]> {
  const unreadable: Unreadable[] = [];
  const decoders: (() => void)[] = [];
  let groups = folders.flatMap(inGroups);
  while (groups.length > 0) {
    const answers = await moment.askAll(groups.map((group) => statusQuestion(group, unreadable)));
    const failed = groups.flatMap((group, index) => {
      const answer = answers[index];
      if (!(answer instanceof CallError)) decoders.push(answer as () => void);
      return answer instanceof CallError ? [{ group, error: answer }] : [];
    });
    // What did not return for many together is asked one by one.
    groups = failed.flatMap(({ group }) => (group.entries.length > 1 ? oneByOne(group) : []));
    for (const { group, error } of failed) {
      const [only, ...others] = group.entries;
      if (only === undefined || others.length > 0) continue;
      const path = joinPath(group.path, only.name);
      unreadable.push({ path, error: aboutPath(error, path) as PenumbraError });
    }
  }
  // Nothing is left to be asked: the guest need not wait for the decoding.
  await moment.end();
  for (const decode of decoders) decode();
  return unreadable;
}

function inGroups({ path, entries }: Folder): Group[] {
  const groups: Group[] = [];
  for (let at = 0; at < entries.length; at += ENTRIES_TOGETHER) {
    groups.push({ path, entries: entries.slice(at, at + ENTRIES_TOGETHER) });
  }
  return groups;
}

function oneByOne({ path, entries }: Group): Group[] {
  return entries.map((entry) => ({ path, entries: [entry] }));
}

/** The answer is a function that puts what was found into the entries. */
function statusQuestion({ path, entries }: Group, unreadable: Unreadable[]): Question<() => void> {
  return (list: StepList) => {
    const directory = openLongPath(list, path, O_RDONLY | O_DIRECTORY);
    const steps = entries.map((entry) => ({
      status: addStatus(list, directory, entry.name),
      link: entry.type === 'symlink' ? addReadLink(list, directory, entry.name) : undefined,
    }));
    list.close(directory);
    return (results: readonly NativeStepResult[]) => () => {
      for (const [index, entry] of entries.entries()) {
        const { status, link } = steps[index] as (typeof steps)[number];
        try {
          entry.status = requireStatus(results, status, joinPath(path, entry.name));
          entry.type = entry.status.type;
        } catch (error) {
          if (!(error instanceof GuestError)) throw error;
          unreadable.push({ path: joinPath(path, entry.name), error });
        }
        const target = link === undefined ? undefined : readTarget(results, link);
        if (target !== undefined) entry.target = target;
      }
    };
  };
}
