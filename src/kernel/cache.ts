import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheDirectory, makeCacheDirectory } from '../cacheDirectory.js';
import { type Description, keyOf } from './description.js';
import { parseDescription } from './descriptionSchema.js';

/** Names the format of a file; another version is another kernel description and is written anew. */
const MAGIC = 'penumbra-kernel-1';
const SUFFIX = '.kernel';
/** Kernels remembered; the one used longest ago makes room. */
const FILE_LIMIT = 64;
const SIZE_LIMIT = 4 << 20;
/** A file that was left behind by a killed writer may be removed after this, ms. */
const ABANDONED = 3_600_000;

/**
 * Kernel descriptions kept between sessions, one file each, under $XDG_CACHE_HOME/penumbra/kernels. Everything here may
 * be deleted at any time. A file is taken only with the right format, length and checksum; what it says is taken only for
 * a guest whose own bytes have the key, which the caller computes.
 */
export class DescriptionCache {
  constructor(readonly directory: string | undefined = cacheDirectory('kernels')) {}

  /** Readable descriptions, last used first. Damaged files are passed over. */
  *descriptions(): Generator<Description> {
    for (const name of this.#files()) {
      const description = this.#load(name);
      if (description !== undefined) yield description;
    }
  }

  /** Keeps a description from being the one that makes room. */
  touch(description: Description): void {
    if (this.directory === undefined) return;
    try {
      const now = new Date();
      utimesSync(join(this.directory, keyOf(description.digests) + SUFFIX), now, now);
    } catch {
      // removed meanwhile, or the directory is read-only: it is merely found later next time
    }
  }

  /** Writes a description atomically, over an older one of the same kernel. Never fails; false when it was not possible. */
  store(description: Description): boolean {
    if (this.directory === undefined) return false;
    const payload = Buffer.from(JSON.stringify(description));
    if (payload.length > SIZE_LIMIT) return false;
    const key = keyOf(description.digests);
    const temporary = join(this.directory, `.${key}.${process.pid}.${randomBytes(4).toString('hex')}`);
    try {
      makeCacheDirectory(this.directory);
      writeFileSync(temporary, Buffer.concat([Buffer.from(header(payload)), payload]), { mode: 0o600, flag: 'wx' });
      renameSync(temporary, join(this.directory, key + SUFFIX));
      this.#makeRoom();
      return true;
    } catch {
      removeFile(temporary);
      return false;
    }
  }

  #load(name: string): Description | undefined {
    if (this.directory === undefined) return undefined;
    try {
      const path = join(this.directory, name);
      if (statSync(path).size > SIZE_LIMIT) return undefined;
      const description = parseFile(readFileSync(path));
      return description !== undefined && keyOf(description.digests) + SUFFIX === name ? description : undefined;
    } catch {
      return undefined;
    }
  }

  #files(): string[] {
    if (this.directory === undefined) return [];
    try {
      const names = readdirSync(this.directory).filter((name) => name.endsWith(SUFFIX) && !name.startsWith('.'));
      if (names.length < 2) return names;
      const aged = names.map((name) => ({ name, age: statSync(join(this.directory!, name)).mtimeMs }));
      return aged.sort((a, b) => b.age - a.age).map(({ name }) => name);
    } catch {
      return [];
    }
  }

  #makeRoom(): void {
    for (const name of this.#files().slice(FILE_LIMIT)) rmSync(join(this.directory!, name), { force: true });
    for (const name of readdirSync(this.directory!).filter((n) => n.startsWith('.'))) {
      const path = join(this.directory!, name);
      if (Date.now() - statSync(path).mtimeMs > ABANDONED) rmSync(path, { force: true });
    }
  }
}

function removeFile(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // what cannot be removed was never written
  }
}

function header(payload: Buffer): string {
  return `${MAGIC} ${payload.length} ${createHash('sha256').update(payload).digest('hex')}\n`;
}

function parseFile(bytes: Buffer): Description | undefined {
  const line = bytes.indexOf('\n') + 1;
  const payload = bytes.subarray(line);
  if (bytes.toString('latin1', 0, line) !== header(payload)) return undefined;
  return parseDescription(JSON.parse(payload.toString()));
}
