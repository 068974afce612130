import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

interface Manifest {
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

/**
 * Folders of the npm packages that the package in `root` needs when it runs, with all that they need in turn. Looked up
 * as Node does, from the folder of whoever needs it upwards.
 */
export function packageFolders(root: string): string[] {
  const found = new Set<string>();
  const visit = (name: string, from: string, optional: boolean): void => {
    const folder = locate(name, from, root);
    if (folder === undefined && !optional) throw new Error(`npm package ${name} is not installed (run scripts/setup)`);
    if (folder === undefined || found.has(folder)) return;
    found.add(folder);
    visitDependencies(folder);
  };
  const visitDependencies = (folder: string): void => {
    const { dependencies = {}, optionalDependencies = {} } = manifestOf(folder);
    for (const name of Object.keys(dependencies)) visit(name, folder, false);
    for (const name of Object.keys(optionalDependencies)) visit(name, folder, true);
  };
  visitDependencies(root);
  return [...found].sort();
}

function manifestOf(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;
}

function locate(name: string, from: string, root: string): string | undefined {
  for (let folder = from; folder.startsWith(root); folder = dirname(folder)) {
    const candidate = join(folder, 'node_modules', name);
    if (existsSync(join(candidate, 'package.json'))) return candidate;
  }
  return undefined;
}
