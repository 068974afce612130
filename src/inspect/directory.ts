import { PenumbraError } from '../errors.js';
import { AT_FDCWD, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } from '../shadow/constants.js';
import { CallError } from '../shadow/failure.js';
import { bytesOf, out, type StepList, value } from '../shadow/stepList.js';
import { decodeDirents } from '../shadow/structs/dirent.js';
import { addStatus, readStatus, requireSuccess } from './fileStatus.js';
import { joinPath, openLongPath, printablePath } from './guestPath.js';
import type { Moment, Question } from './moment.js';
import { aboutPath, naming } from './notInMemory.js';
import type { DirectoryEntry, FileType, Unreadable } from './records.js';

/** A directory of a walk, with what was kept of its entries, and the directories among them that were gone into. */
export interface Folder {
  path: Buffer;
  depth: number;
  entries: DirectoryEntry[];
  folders: Map<DirectoryEntry, Folder>;
}

export interface WalkOptions {
  /** how many levels of directories to go into; 1 is the start alone */
  levels: number;
  /** refuse a symbolic link as the start (ENOTDIR) */
  noFollow?: boolean;
  /** entries that are remembered; directories are gone into whether or not they are kept */
  keep: (entry: DirectoryEntry, depth: number) => boolean;
  /** false: neither kept nor gone into */
  consider?: (entry: DirectoryEntry) => boolean;
  /** nothing else will be asked about what is found: the guest may run on as soon as the names are there */
  isAll?: boolean;
}

/** One transfer; a directory of 100,000 short names takes about four. */
const LISTING_PIECE = 1 << 20;
/** About a million names in one directory. A hostile guest could go on without end. */
const LARGEST_LISTING = 64 << 20;
/** Entries in all, which then take about 1 GB. */
const MOST_ENTRIES = 4_000_000;
/** Directories whose names are asked for at once: bounds what their answers take. */
const FOLDERS_AT_ONCE = 512;
const SLASH = 0x2f;
const IMPOSSIBLE_NAME = 'a directory of the guest holds a name that is empty or has a slash';

/** DT_* of the kernel's linux/fs_types.h */
const TYPES = new Map<number, FileType>([
  [1, 'fifo'],
  [2, 'characterDevice'],
  [4, 'directory'],
  [6, 'blockDevice'],
  [8, 'file'],
  [10, 'symlink'],
  [12, 'socket'],
]);

/**
 * Reads a directory and those below it, level by level. Symbolic links are not followed, but for the start. What
 * cannot be read is reported and left out.
 * @throws GuestError, PenumbraError DEVICE_ACCESS when the start cannot be read; CORRUPT, UNSUPPORTED (too large)
 */
export async function walk(
  moment: Moment,
  start: Buffer,
  options: WalkOptions,
): Promise<{ root: Folder; unreadable: Unreadable[] }> {
  const root: Folder = { path: start, depth: 0, entries: [], folders: new Map() };
  const flags = O_RDONLY | O_DIRECTORY | (options.noFollow ? O_NOFOLLOW : 0);
  const names = await naming(start, moment.ask(readNames(start, (list) => list.open(AT_FDCWD, start, flags))));
  if (options.isAll && options.levels <= 1) await moment.end();
  const unreadable: Unreadable[] = [];
  let left = MOST_ENTRIES;
  const take = async (folders: readonly Folder[], answers: readonly Names[]): Promise<Folder[]> => {
    const entries = answers.map((answer, index) => {
      const decoded = answer instanceof PenumbraError ? answer : decodeNames(answer);
      if (!(decoded instanceof PenumbraError)) return decoded;
      if (folders[index] === root) throw decoded;
      const { path } = folders[index] as Folder;
      unreadable.push({ path, error: aboutPath(decoded, path) as PenumbraError });
      return [];
    });
    left -= entries.reduce((sum, each) => sum + each.length, 0);
    if (left < 0) throw tooLarge(start, `has more than ${MOST_ENTRIES} files below it`);
    await resolveUnknownTypes(moment, folders, entries);
    return folders.flatMap((folder, index) => fill(folder, entries[index] as DirectoryEntry[], options));
  };
  let level = await take([root], [names]);
  while (level.length > 0) {
    const next: Folder[] = [];
    for (let at = 0; at < level.length; at += FOLDERS_AT_ONCE) {
      const folders = level.slice(at, at + FOLDERS_AT_ONCE);
      const answers = await moment.askAll(folders.map(({ path }) => readNames(path, openBelow(path))));
      for (const folder of await take(folders, answers)) next.push(folder);
    }
    level = next;
  }
  return { root, unreadable };
}

/** A directory and all below it, parents first, in the order of their entries. */
export function* inOrder(root: Folder): Generator<Folder> {
  const stack = [root];
  for (let folder = stack.pop(); folder !== undefined; folder = stack.pop()) {
    yield folder;
    for (const below of [...folder.folders.values()].reverse()) stack.push(below);
  }
}

/** Puts into a folder what is to be kept of its entries, sorted. @returns the folders to go into next */
function fill(folder: Folder, entries: DirectoryEntry[], { keep, consider, levels }: WalkOptions): Folder[] {
  const depth = folder.depth + 1;
  entries.sort((a, b) => a.name.compare(b.name));
  for (const entry of entries) {
    if (consider !== undefined && !consider(entry)) continue;
    if (keep(entry, depth)) folder.entries.push(entry);
    if (entry.type === 'directory' && depth < levels) {
      const path = joinPath(folder.path, entry.name);
      folder.folders.set(entry, { path, depth, entries: [], folders: new Map() });
    }
  }
  return [...folder.folders.values()];
}

/** Opening a FIFO or a device that took a directory's place must not wait. */
function openBelow(path: Buffer) {
  return (list: StepList) => openLongPath(list, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK);
}

/** What getdents64(2) gave, or why there is nothing. */
type Names = Buffer | PenumbraError;

function readNames(path: Buffer, open: (list: StepList) => { step: number }): Question<Names> {
  return (list) => {
    const fd = open(list);
    const buffer = { ...out(LISTING_PIECE), lengthIsResult: true };
    const names = list.add('getdents64', value(fd), buffer, value(LISTING_PIECE));
    const step = list.steps[names];
    if (step !== undefined) step.repeatUntil = LARGEST_LISTING;
    list.close(fd);
    return (results) => {
      try {
        requireSuccess(results, fd.step, 'openat', path);
        const size = requireSuccess(results, names, 'getdents64', path);
        if (size >= LARGEST_LISTING) throw tooLarge(path, `has more than ${LARGEST_LISTING >> 20} MiB of names`);
        return bytesOf(results, names) ?? Buffer.alloc(0);
      } catch (error) {
        if (error instanceof PenumbraError) return error;
        throw error;
      }
    };
  };
}

/** @returns PenumbraError CORRUPT for records, or a name, that no directory can have */
function decodeNames(bytes: Buffer): DirectoryEntry[] | PenumbraError {
  try {
    const entries: DirectoryEntry[] = [];
    for (const { ino, type, name } of decodeDirents(bytes)) {
      if (name.length === 0 || name.includes(SLASH)) return new PenumbraError('CORRUPT', IMPOSSIBLE_NAME);
      if (!isSelfOrParent(name)) entries.push({ name, ino, type: TYPES.get(type) ?? 'unknown' });
    }
    return entries;
  } catch (error) {
    if (error instanceof PenumbraError) return error;
    throw error;
  }
}

function isSelfOrParent(name: Buffer): boolean {
  return name[0] === 0x2e && (name.length === 1 || (name.length === 2 && name[1] === 0x2e));
}

/** Some file systems leave the type out of their directories. */
async function resolveUnknownTypes(
  moment: Moment,
  folders: readonly Folder[],
  entries: DirectoryEntry[][],
): Promise<void> {
  const unknown = folders.flatMap((folder, index) =>
    (entries[index] as DirectoryEntry[]).filter(({ type }) => type === 'unknown').map((entry) => ({ folder, entry })),
  );
  if (unknown.length === 0) return;
  const answers = await moment.askAll(
    unknown.map(({ folder, entry }): Question<FileType> => {
      return (list) => {
        const step = addStatusBelow(list, folder.path, entry.name);
        return (results) => readStatus(results, step)?.type ?? 'unknown';
      };
    }),
  );
  for (const [index, { entry }] of unknown.entries()) {
    const answer = answers[index];
    if (answer !== undefined && !(answer instanceof CallError)) entry.type = answer;
  }
}

function addStatusBelow(list: StepList, directory: Buffer, name: Buffer): number {
  const fd = openLongPath(list, directory, O_RDONLY | O_DIRECTORY);
  const step = addStatus(list, fd, name);
  list.close(fd);
  return step;
}

function tooLarge(path: Buffer, what: string): PenumbraError {
  return new PenumbraError('UNSUPPORTED', `${printablePath(path)} ${what} (look at a part of it)`);
}
