/** Holds the guest behind a QMP socket still until it is killed: `node hold.js SOCKET`. Says when it does. */
import { attach } from '../../../src/index.js';

const guest = await attach({ qmp: process.argv[2] as string });
await guest.shadow();
process.stdout.write('held\n');
setInterval(() => undefined, 1000);
