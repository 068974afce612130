import { createHash, randomBytes } from 'node:crypto';
import { statSync } from 'node:fs';
import { copyFile, type FileHandle, mkdir, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type CpioEntry, cpioPieces, withParents } from '../../../src/lab/cpio.js';
import { fileEntries, type HostFile, projectFiles, ROOT, type SystemPart, systemPart } from './contents.js';

const CACHE = join(ROOT, '.vendor/nested');
/** To be changed with what this code makes of the same files. */
const FORMAT = 1;

/**
 * L1's initial RAM disk: an archive of what seldom changes, which is kept in .vendor/nested, and behind it one of the
 * project as it is built now. (The kernel unpacks archive after archive: buffer-format.rst, as in src/lab/cpio.ts.)
 * The file has no name any more: it goes when the handle is closed.
 */
export async function l1Image(files: readonly HostFile[]): Promise<FileHandle> {
  const system = await cachedArchive(await systemPart());
  const path = join(tmpdir(), `penumbra-l1-${randomBytes(6).toString('hex')}`);
  await copyFile(system, path);
  const image = await open(path, 'r+');
  await unlink(path);
  await write(image, (await stat(system)).size, fileEntries([...projectFiles(), ...files]));
  return image;
}

async function cachedArchive(part: SystemPart): Promise<string> {
  await mkdir(CACHE, { recursive: true });
  const name = `system-${keyOf(part)}.cpio`;
  const path = join(CACHE, name);
  if (await stat(path).catch(() => undefined)) return path;
  const unfinished = join(CACHE, `unfinished-${randomBytes(6).toString('hex')}`);
  try {
    await using file = await open(unfinished, 'wx');
    await write(file, 0, entriesOf(part, await part.entries()));
    await rename(unfinished, path);
  } catch (error) {
    await rm(unfinished, { force: true });
    throw error;
  }
  await removeOthers(name);
  return path;
}

/** Names, sizes and times of change stand for the contents. */
function keyOf(part: SystemPart): string {
  const lines = part.files.map(({ name, source }) => {
    const { size, mtimeMs } = statSync(source);
    return `${name} ${source} ${size} ${mtimeMs}`;
  });
  return createHash('sha256')
    .update([FORMAT, part.key, ...lines].join('\n'))
    .digest('hex')
    .slice(0, 16);
}

function* entriesOf(part: SystemPart, made: readonly CpioEntry[]): Generator<CpioEntry> {
  yield* fileEntries(part.files);
  yield* made;
}

async function write(file: FileHandle, position: number, entries: Iterable<CpioEntry>): Promise<void> {
  let end = position;
  for (const piece of cpioPieces(withParents(entries))) {
    await file.write(piece, 0, piece.length, end);
    end += piece.length;
  }
}

async function removeOthers(kept: string): Promise<void> {
  const others = (await readdir(CACHE)).filter((name) => name.startsWith('system-') && name !== kept);
  await Promise.all(others.map((name) => rm(join(CACHE, name), { force: true })));
}
