import { GuestError } from '../errors.js';
import { type Folder, walk } from './directory.js';
import { statInMoment } from './fileStatus.js';
import { compileGlob } from './glob.js';
import { baseName, joinPath, withoutNul } from './guestPath.js';
import { Moment, type ShadowSource } from './moment.js';
import type { DirectoryEntry, FileType, FoundFile, Unreadable } from './records.js';

export interface FindOptions {
  /** a shell pattern for the last part of the path */
  name?: string | Buffer;
  type?: FileType | readonly FileType[];
  /** levels below the start: 0 is the start alone */
  maxDepth?: number;
  minDepth?: number;
}

export interface FindReport {
  /** directories before what is in them, otherwise by name */
  found: FoundFile[];
  unreadable: Unreadable[];
}

/**
 * The files below `path`, and itself, that match. Symbolic links are not followed.
 * @throws GuestError, PenumbraError DEVICE_ACCESS when `path` itself cannot be looked at; CORRUPT, UNSUPPORTED
 */
export async function findFiles(
  source: ShadowSource,
  path: string | Buffer,
  options: FindOptions = {},
): Promise<FindReport> {
  const start = withoutNul(path);
  const matches = matcher(options);
  const { maxDepth = Number.POSITIVE_INFINITY } = options;
  await using moment = new Moment(source);
  const { type } = await statInMoment(moment, start, {});
  const found: FoundFile[] = matches(baseName(start), type, 0) ? [{ path: start, type }] : [];
  if (type !== 'directory' || maxDepth < 1) return { found, unreadable: [] };
  try {
    const keep = (entry: DirectoryEntry, depth: number): boolean => matches(entry.name, entry.type, depth);
    const { root, unreadable } = await walk(moment, start, { levels: maxDepth, noFollow: true, keep });
    for (const entry of flatten(root)) found.push(entry);
    return { found, unreadable };
  } catch (error) {
    if (!(error instanceof GuestError)) throw error;
    return { found, unreadable: [{ path: start, error }] };
  }
}

function matcher({ name, type, minDepth = 0 }: FindOptions) {
  const glob = name === undefined ? undefined : compileGlob(Buffer.from(name));
  const types = type === undefined ? undefined : new Set(typeof type === 'string' ? [type] : type);
  return (base: Buffer, fileType: FileType, depth: number): boolean =>
    depth >= minDepth && (types === undefined || types.has(fileType)) && (glob === undefined || glob(base));
}

/** What was kept, each directory followed by what is below it. */
function* flatten(root: Folder): Generator<FoundFile> {
  const stack: Iterator<FoundFile | Folder>[] = [members(root)];
  for (let top = stack.at(-1); top !== undefined; top = stack.at(-1)) {
    const { value, done } = top.next();
    if (done) stack.pop();
    else if ('folders' in value) stack.push(members(value));
    else yield value;
  }
}

/** Entries and folders of a folder, merged by name; a directory's own entry comes before its contents. */
function* members(folder: Folder): Generator<FoundFile | Folder> {
  const waiting = [...folder.folders];
  let next = 0;
  for (const entry of folder.entries) {
    for (let head = waiting[next]; head !== undefined && head[0].name.compare(entry.name) < 0; head = waiting[next]) {
      yield head[1];
      next += 1;
    }
    yield { path: joinPath(folder.path, entry.name), type: entry.type };
  }
  for (; next < waiting.length; next += 1) yield (waiting[next] as [DirectoryEntry, Folder])[1];
}
