/** Attaches to the guest behind a QMP socket and stops it over and over, for as short as can be, until it is killed. */
import { attach } from '../../../src/index.js';

const guest = await attach({ qmp: process.argv[2] as string, engine: 'unicorn' });
process.stdout.write(`${(await guest.info()).stopWay}\n`);
for (;;) await guest.measureStop();
