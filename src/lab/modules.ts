import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';

/** A kernel module ready to be inserted: an ELF file, no longer compressed. */
export interface KernelModule {
  name: string;
  content: Buffer;
}

const LARGEST_MODULE = 64 << 20;

/**
 * Reads modules with all that they depend on, in the order to insert them. A module that the folder does not have is
 * taken to be built into this kernel and left out.
 */
export async function modulesInOrder(folder: string, wanted: readonly string[]): Promise<KernelModule[]> {
  const files = await moduleFiles(folder);
  const visited = new Set<string>();
  const order: KernelModule[] = [];
  const visit = async (name: string): Promise<void> => {
    const file = files.get(name);
    if (file === undefined || visited.has(name)) return;
    visited.add(name);
    const content = await moduleContent(file);
    for (const dependency of dependencies(content)) await visit(dependency);
    order.push({ name, content });
  };
  for (const name of wanted) await visit(name);
  return order;
}

async function moduleFiles(folder: string): Promise<Map<string, string>> {
  const files = await readdir(folder, { recursive: true });
  const modules = files.filter((file) => /\.ko(\.xz)?$/.test(file));
  return new Map(modules.map((file) => [moduleName(file), join(folder, file)]));
}

/** File names and `depends=` may have a dash where the kernel's own name has an underscore. */
function moduleName(file: string): string {
  return basename(file)
    .replace(/\.ko(\.xz)?$/, '')
    .replaceAll('-', '_');
}

async function moduleContent(file: string): Promise<Buffer> {
  if (!file.endsWith('.xz')) return readFile(file);
  const options = { encoding: 'buffer', maxBuffer: LARGEST_MODULE } as const;
  const { stdout } = await promisify(execFile)('xz', ['--decompress', '--stdout', file], options);
  return stdout;
}

/** The `depends=` line of the .modinfo section: names with commas between (scripts/mod/modpost.c, add_depends). */
function dependencies(module: Buffer): string[] {
  const start = module.indexOf('\0depends=');
  if (start < 0) return [];
  const end = module.indexOf(0, start + 1);
  const names = module.toString('latin1', start + '\0depends='.length, end);
  return names
    .split(',')
    .map(moduleName)
    .filter((name) => name !== '');
}
