/** The native rooms without Node: memory, engines, the shadow, threads, redirection; with sanitizers, and at random. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import t, { type Test } from 'tap';
import { fileAtItsPlace, ROOT } from './lab/nested/contents.js';
import { librariesOf } from './lab/nested/libraries.js';
import { nestedLab } from './lab/nested/machine.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
// All of it is compiled first.
t.setTimeout(LONG ? 7_200_000 : 600_000);
/** What scripts/test-native makes. */
const TESTS = 'build/sanitized/tests';
const ENGINES_TIMEOUT_MS = 120_000;

const tests = spawn(join(ROOT, 'scripts/test-native'), [], {
  env: { ...process.env, PENUMBRA_CASES: LONG ? '10' : '1' },
  stdio: ['ignore', 'pipe', 'pipe'],
});
const ended = once(tests, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
const complaints = text(tests.stderr);
const count = await report(t, tests.stdout);
const [status, signal] = await ended;
t.equal(status, 0, 'all end well', status === 0 ? {} : { reason: signal ?? (await complaints).slice(-4000) });
t.ok(count > 45, `${count} tests`);

// A KVM without hardware behind it leaves some of what engines do untested.
await t.test('engines where KVM has hardware, in a nested lab', async (t) => {
  const program = join(ROOT, TESTS);
  await using l1 = await nestedLab(t, { files: [program, ...(await librariesOf(program))].map(fileAtItsPlace) });
  const { stdout, stderr, status } = await l1.run(`${TESTS} 'engine kvm'`, ENGINES_TIMEOUT_MS);
  t.ok((await report(t, Readable.from([stdout]))) > 4);
  t.notMatch(stdout.toString(), /skipped/);
  t.equal(status, 0, stderr.toString().slice(-4000));
});

/** Passes the tests of a program on that prints TAP, and returns how many there were. */
async function report(t: Test, printed: Readable): Promise<number> {
  let count = 0;
  let failed: string | undefined;
  for await (const line of createInterface(printed)) {
    const [, verdict, name] = /^(ok|not ok) \d+ - (.*)$/.exec(line) ?? [];
    if (name === undefined) {
      // Why the one before failed.
      if (failed !== undefined) t.fail(failed, { reason: line });
      failed = undefined;
      continue;
    }
    count += 1;
    if (verdict === 'ok') t.pass(name);
    else failed = name;
  }
  if (failed !== undefined) t.fail(failed);
  return count;
}
