import { AT_FDCWD, O_DIRECTORY, O_RDONLY } from '../shadow/constants.js';
import type { Shadow } from '../shadow/shadow.js';
import { StepList } from '../shadow/stepList.js';
import { addReadLink, addStatus } from './fileStatus.js';
import type { ShadowSource } from './moment.js';

const SMALL = 4096;
const rehearsed = new WeakSet<ShadowSource>();

/**
 * Calls what inspectors call, over the running guest, once per source: the engine has then translated most of their
 * code when the guest is made to stand still for them. Whether the calls succeed does not matter.
 */
export async function rehearseOnce(source: ShadowSource): Promise<void> {
  if (rehearsed.has(source)) return;
  rehearsed.add(source);
  await source.rehearse?.(visitRoot);
}

async function visitRoot(shadow: Shadow): Promise<void> {
  const list = new StepList();
  const root = list.open(AT_FDCWD, Buffer.from('/'), O_RDONLY | O_DIRECTORY);
  list.readDirectory(root, SMALL);
  addStatus(list, root, Buffer.from('etc'));
  addReadLink(list, root, Buffer.from('bin'));
  const file = list.open(root, Buffer.from('etc/passwd'), O_RDONLY);
  list.readOnce(file, SMALL);
  list.close(file);
  list.close(root);
  await shadow.batch(list.steps, { mayBlock: true });
}
