/** Redirected tools against the same binaries run inside the guest; and the host never shows in what they print. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { hostProgram, toolFiles } from '../../src/lab/hostTools.js';
import { LAB_KERNELS, LabGuest, type LabSpec } from '../../src/lab/index.js';
import { SEARCH_PATH, toolEnvironment } from '../../src/redirect/environment.js';
import { CanaryHost } from '../lab/canaryHost.js';
import type { LineResult, LineResults, LineWork } from '../lab/runLines.js';
import { COUNTERS, programNames, programsOf, type ToolCase, toolCases } from './runTable.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
/** The one that is named, or all in the long run. */
const WANTED_KERNEL = process.env['PENUMBRA_KERNEL'] ?? (LONG ? undefined : '6.1');
t.setTimeout(LONG ? 1_800_000 : 600_000);

const ENVIRONMENT = ['LANG=C', 'TERM=dumb'];
/** What programs come with and look for in the guest when they run there. */
const TABLES = [
  ...['/usr/lib/file/magic.mgc', '/usr/share/misc/magic.mgc', '/etc/protocols', '/etc/services'],
  ...['/lib/terminfo/d/dumb', '/usr/share/terminfo/d/dumb'],
];
const LINE_TIMEOUT_MS = 60_000;
/** No year of the host, of the kernels or of this repository. */
const GUEST_CLOCK = '2041-06-15T12:00:00';
/** The short run takes every second line: running them inside an emulated guest is what takes the time. */
const STEP = LONG ? 1 : 2;
const LEAST_SHARE = 0.9;
const LEAST_LINES = 150 / STEP;
const LEAST_PROGRAMS = 60 / STEP;
const runner = fileURLToPath(new URL('../lab/runLines.js', import.meta.url));

/** The lines to be compared; those whose first program this host does not have are left out. */
function casesHere(): ToolCase[] {
  const isShell = /^(?:[[(]|cd|for|test|echo|pwd|printf|nosuch|\/)/;
  const cases = toolCases.filter(
    ({ command }) => isShell.test(command) || hostProgram(programsOf(command)[0] as string) !== undefined,
  );
  return cases.filter((_, index) => index % STEP === 0);
}

/** Files of Python's library that it cannot start without. */
function pythonFiles(): string[] {
  const python = hostProgram('python3');
  if (python === undefined) return [];
  const code = 'import os, sys; print(*{m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)})';
  return execFileSync(python, ['-I', '-S', '-B', '-c', code], { encoding: 'utf8' }).trim().split(' ');
}

async function native(lab: LabGuest, line: string): Promise<LineResult> {
  const quoted = line.replaceAll("'", "'\\''");
  const environment = toolEnvironment({}, ENVIRONMENT).join(' ');
  const { status, stdout, stderr } = await lab.run(
    `exec env -i ${environment} /usr/bin/sh -c '${quoted}' < /dev/null`,
    LINE_TIMEOUT_MS,
  );
  return { exit: status, stdout: stdout.toString('latin1'), stderr: stderr.toString('latin1') };
}

function runOnCanaryHost(host: CanaryHost, qmp: string, redirected: readonly string[]): LineResults {
  const files = { work: join(host.folder, 'work'), results: join(host.folder, 'results') };
  const here = host.canaries.map(({ shownBy }) => shownBy);
  const work: LineWork = { qmp, environment: ENVIRONMENT, redirected, here, socket: host.socket };
  writeFileSync(files.work, JSON.stringify(work));
  const [program = '', ...rest] = host.command(process.execPath, runner, files.work, files.results);
  const environment = { PATH: SEARCH_PATH, ...host.environment };
  execFileSync(program, rest, { env: environment, stdio: ['ignore', 'ignore', 'inherit'] });
  return JSON.parse(readFileSync(files.results, 'utf8')) as LineResults;
}

async function compare(kernel: LabSpec['kernel']): Promise<void> {
  const skip = process.getuid?.() !== 0 && 'only root can give a host another name';
  await t.test(`kernel ${kernel}`, { skip }, async (t) => {
    using host = new CanaryHost();
    await using lab = await LabGuest.start(
      { kernel, memoryMiB: 768, clock: GUEST_CLOCK },
      { files: await toolFiles(programNames, [...TABLES, ...pythonFiles()].filter(existsSync)) },
    );
    // Until the kernel has random numbers it prints no pointers, which are in /proc/net.
    await lab.run('head -c 1 /dev/random > /dev/null; while grep -q ptrval /proc/net/unix; do sleep 1; done');
    const cases = casesHere();
    const expected: LineResult[] = [];
    for (const { command } of cases) expected.push(await native(lab, command));
    const { redirected, here } = runOnCanaryHost(
      host,
      lab.qmp,
      cases.map(({ command }) => command),
    );
    t.equal(redirected.length, cases.length);

    let identical = 0;
    for (const [index, { command, differs }] of cases.entries()) {
      const { exit, stdout, stderr } = redirected[index] as LineResult;
      const wanted = expected[index] as LineResult;
      if (exit === wanted.exit && stdout === wanted.stdout) identical += 1;
      const rest = differs?.rest ?? ((printed: string) => printed);
      const what = differs === undefined ? command : `${command}, but for this: ${differs.why}`;
      t.same({ exit, stdout: rest(stdout) }, { exit: wanted.exit, stdout: rest(wanted.stdout) }, what, { stderr });
    }
    const programs = new Set(cases.flatMap(({ command }) => programsOf(command)).filter(hostProgram));
    t.comment(`${identical} of ${cases.length} lines of ${programs.size} programs are byte-identical on ${kernel}`);
    t.ok(cases.length >= LEAST_LINES && programs.size >= LEAST_PROGRAMS, 'the table is long enough');
    t.ok(identical >= LEAST_SHARE * cases.length, `${identical} lines are identical to the byte`);

    for (const [index, { value, shownBy }] of host.canaries.entries()) {
      t.match(here[index]?.stdout, value, `${shownBy} shows ${value} where the host answers`);
      // A counter may well have run up to the year.
      const mayBe = cases.map(({ differs }) => differs?.why === COUNTERS && /^\d+$/.test(value));
      // A kernel's build date has a year too: what the guest prints by itself is no leak.
      const leaks = cases.filter(
        (_, line) => !mayBe[line] && shows(redirected[line], value) && !shows(expected[line], value),
      );
      t.same(
        leaks.map(({ command }) => command),
        [],
        `no line shows ${value} where the guest answers`,
      );
    }
  });
}

function shows(result: LineResult | undefined, value: string): boolean {
  return result !== undefined && (result.stdout.includes(value) || result.stderr.includes(value));
}

for (const kernel of LAB_KERNELS) {
  if (WANTED_KERNEL === undefined || WANTED_KERNEL === kernel) await compare(kernel);
}
