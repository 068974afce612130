/** The native rooms without Node: memory, engines, the shadow, threads, redirection; with sanitizers, and at random. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
// All of it is compiled first.
t.setTimeout(LONG ? 7_200_000 : 600_000);
const program = fileURLToPath(new URL('../../scripts/test-native', import.meta.url));

const tests = spawn(program, [], {
  env: { ...process.env, PENUMBRA_CASES: LONG ? '10' : '1' },
  stdio: ['ignore', 'pipe', 'pipe'],
});
const ended = once(tests, 'close') as Promise<[number | null, NodeJS.Signals | null]>;
let complaints = '';
tests.stderr.on('data', (bytes: Buffer) => {
  complaints += bytes.toString();
});

let count = 0;
let failed: string | undefined;
for await (const line of createInterface(tests.stdout)) {
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
const [status, signal] = await ended;
t.equal(status, 0, 'all end well', status === 0 ? {} : { reason: signal ?? complaints.slice(-4000) });
t.ok(count > 45, `${count} tests`);
