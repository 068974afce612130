import { dirname } from 'node:path';

/** One member of an initial RAM disk. Names are relative, parents come before their content. */
export type CpioEntry =
  | { kind: 'file'; name: string; mode: number; content: Buffer }
  | { kind: 'folder'; name: string; mode: number }
  | { kind: 'link'; name: string; target: string };

const TYPE_BITS = { file: 0o100000, folder: 0o040000, link: 0o120000 } as const;

/**
 * Writes an archive that the kernel unpacks at boot: cpio's "newc" format, owner root, times zero.
 * Source: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel tree.
 */
export function cpioArchive(entries: Iterable<CpioEntry>): Buffer {
  return Buffer.concat([...cpioPieces(entries)]);
}

/** The same piece by piece, for an archive that is too large to hold; its length is a multiple of four. */
export function* cpioPieces(entries: Iterable<CpioEntry>): Generator<Buffer> {
  let inode = 1;
  for (const entry of entries) yield* member(entry.name, typeAndMode(entry), contentOf(entry), inode++);
  yield* member('TRAILER!!!', 0, Buffer.alloc(0), 0);
}

/** Adds the folders that nobody listed, each before its content, and leaves out what was listed before. */
export function* withParents(entries: Iterable<CpioEntry>): Generator<CpioEntry> {
  const known = new Set(['.']);
  for (const entry of entries) {
    for (const folder of missingParents(entry.name, known)) yield { kind: 'folder', name: folder, mode: 0o755 };
    if (known.has(entry.name)) continue;
    known.add(entry.name);
    yield entry;
  }
}

function missingParents(name: string, known: Set<string>): string[] {
  const parent = dirname(name);
  if (known.has(parent)) return [];
  const missing = [...missingParents(parent, known), parent];
  known.add(parent);
  return missing;
}

function typeAndMode(entry: CpioEntry): number {
  return TYPE_BITS[entry.kind] | (entry.kind === 'link' ? 0o777 : entry.mode);
}

function contentOf(entry: CpioEntry): Buffer {
  if (entry.kind === 'file') return entry.content;
  return entry.kind === 'link' ? Buffer.from(entry.target) : Buffer.alloc(0);
}

function member(name: string, mode: number, content: Buffer, inode: number): Buffer[] {
  const path = Buffer.from(`${name}\0`);
  const links = 1;
  // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, path.length, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return [header, path, padding(header.length + path.length), content, padding(content.length)];
}

/** Names and contents are padded to a multiple of four bytes. */
function padding(length: number): Buffer {
  return Buffer.alloc(-length & 3);
}
