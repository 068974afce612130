/**
 * Attaches to the guest behind a QMP socket and makes it stand still over and over, until it is killed:
 *   node victim.js SOCKET LISTINGS     so many listings of processes each time
 * Says so when it has attached.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { attach } from '../../src/index.js';
import { sampleProcessFiles } from '../../src/inspect/processFiles.js';

const [socket, listings] = process.argv.slice(2) as [string, string];
const guest = await attach({ qmp: socket });
process.stdout.write('attached\n');
for (;;) {
  await guest.use(async (shadow) => {
    for (let count = Number(listings); count > 0; count -= 1) await sampleProcessFiles(shadow);
  });
  await sleep(3);
}
