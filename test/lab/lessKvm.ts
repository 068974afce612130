import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';

const source = fileURLToPath(new URL('../../../test/lab/lessKvm.c', import.meta.url));

/** Compiles lessKvm.c, the library that makes KVM less than it is; it goes with the test. */
export function lessKvm(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const library = join(folder, 'lessKvm.so');
  execFileSync('gcc', ['-O1', '-shared', '-fPIC', '-o', library, source]);
  return library;
}
