/** Redirected tools against the same binaries run inside the guest. */
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { attach, type Guest } from '../../src/index.js';
import { hostProgram, toolFiles } from '../../src/lab/hostTools.js';
import { LAB_KERNELS, LabGuest, type LabSpec } from '../../src/lab/index.js';
import { toolCases, toolPrograms } from './runTable.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 1_800_000 : 600_000);

const ENVIRONMENT = ['LANG=C', 'TERM=dumb'];
const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** What programs come with and look for in the guest when they run there. */
const TABLES = ['/usr/lib/file/magic.mgc', '/usr/share/misc/magic.mgc', '/etc/protocols', '/etc/services'];
const TOOL_TIMEOUT_MS = 60_000;

interface Printed {
  exit: number;
  stdout: string;
}

async function redirected(guest: Guest, command: string, folder: string): Promise<Printed & { stderr: string }> {
  const files = [join(folder, 'stdout'), join(folder, 'stderr')] as const;
  const fds = [openSync('/dev/null', 'r'), openSync(files[0], 'w'), openSync(files[1], 'w')] as const;
  try {
    const signal = AbortSignal.timeout(TOOL_TIMEOUT_MS);
    const { exit } = await guest.run(['/usr/bin/sh', '-c', command], {
      fds,
      budget: 0,
      environment: ENVIRONMENT,
      signal,
    });
    return { exit, stdout: readFileSync(files[0], 'latin1'), stderr: readFileSync(files[1], 'latin1') };
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

async function native(lab: LabGuest, command: string): Promise<Printed> {
  const quoted = command.replaceAll("'", "'\\''");
  const environment = [`PATH=${SEARCH_PATH}`, 'HOME=/', ...ENVIRONMENT].join(' ');
  const { status, stdout } = await lab.run(
    `exec env -i ${environment} /usr/bin/sh -c '${quoted}' < /dev/null`,
    TOOL_TIMEOUT_MS,
  );
  return { exit: status, stdout: stdout.toString('latin1') };
}

async function compare(kernel: LabSpec['kernel']): Promise<void> {
  await t.test(`kernel ${kernel}`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'penumbra-run-'));
    t.teardown(() => rmSync(folder, { recursive: true }));
    await using lab = await LabGuest.start(
      { kernel, memoryMiB: 768 },
      { files: await toolFiles(toolPrograms, TABLES.filter(existsSync)) },
    );
    const cases = toolCases.filter(
      ({ command }) =>
        hostProgram(command.split(' ')[0] as string) !== undefined || /^[([]|^(?:cd|for|test|echo|pwd)/.test(command),
    );
    const expected = new Map<string, Printed>();
    for (const { command } of cases) expected.set(command, await native(lab, command));
    await using guest = await attach({ qmp: lab.qmp, callTimeout: 10_000 });
    let identical = 0;
    for (const { command, differs } of cases) {
      const got = await redirected(guest, command, folder);
      const { exit, stdout } = expected.get(command) as Printed;
      const isIdentical = got.exit === exit && got.stdout === stdout;
      if (isIdentical) identical += 1;
      if (differs === undefined)
        t.same({ exit: got.exit, stdout: got.stdout }, { exit, stdout }, command, { stderr: got.stderr });
      else t.equal(got.exit, exit, `${command} (${differs})`, { stderr: got.stderr });
    }
    t.comment(`${identical} of ${cases.length} command lines are byte-identical`);
    t.ok(identical >= 85, 'at least 85 are byte-identical');
  });
}

for (const kernel of LONG ? LAB_KERNELS : (['6.1'] as const)) await compare(kernel);
