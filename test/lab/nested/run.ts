/**
 * Boots L1 and runs shell commands there, in the project's folder, to try things by hand:
 *
 *     node dist/test/lab/nested/run.js 'ls -l /dev/kvm' 'node dist/test/lab/nested/look.js ...'
 *
 * Ends with the status of the first command that fails.
 */
import { NestedLab } from './machine.js';

await using l1 = await NestedLab.start();
process.stderr.write(`L1 is up after ${l1.bootMs.toFixed(0)} ms\n`);
for (const command of process.argv.slice(2)) {
  const begin = performance.now();
  const { stdout, stderr, status } = await l1.run(command);
  process.stdout.write(stdout);
  process.stderr.write(stderr);
  process.stderr.write(`status ${status} after ${(performance.now() - begin).toFixed(0)} ms\n`);
  if (status !== 0) {
    process.stderr.write(`${await l1.lastWords()}\n`);
    process.exitCode = status;
    break;
  }
}
