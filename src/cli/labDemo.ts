import { attach, type Guest } from '../index.js';
import { LabGuest, type LabSpec } from '../lab/index.js';
import { cat } from './cat.js';
import { type Context, ExitStatus } from './command.js';
import type { GuestArguments, GuestCommand } from './guestCommand.js';
import { interruptible } from './interruptible.js';
import { ls } from './ls.js';
import { complain, type Output } from './output.js';
import { ps } from './ps.js';
import { hex } from './quantity.js';
import { uname } from './uname.js';

const COMMON: GuestArguments = { json: false, verbose: false, all: false, engine: 'auto', as: '1', timeout: '2000' };
const PROGRESS_MS = 1000;

/** Boots a guest, looks into it with a few commands, saying what each took, and leaves nothing behind. */
export async function demonstrate(spec: LabSpec, { output, signal }: Context): Promise<number> {
  await using lab = await boot(spec, signal);
  await output.write(
    `A guest with Debian's kernel ${lab.release} and ${spec.memoryMiB} MiB, in QEMU, process ${lab.pid}.\n` +
      `What penumbra gets of it: its QMP socket, ${lab.qmp}\n`,
  );
  await interruptible(lookInto(lab, output, signal), signal);
  return ExitStatus.success;
}

async function boot(spec: LabSpec, signal: AbortSignal): Promise<LabGuest> {
  const begin = performance.now();
  const seconds = (): string => ((performance.now() - begin) / 1000).toFixed(0);
  complain('Booting a guest ...');
  const progress = setInterval(() => complain(`  ${seconds()} s`), PROGRESS_MS);
  try {
    // When interrupted, the lab itself ends the guest along with this process.
    return await interruptible(LabGuest.start(spec), signal);
  } finally {
    clearInterval(progress);
  }
}

async function lookInto(lab: LabGuest, output: Output, signal: AbortSignal): Promise<void> {
  const begin = performance.now();
  await using guest = await attach({ qmp: lab.qmp, signal });
  await output.write(
    `\nAttached in ${milliseconds(performance.now() - begin)}, without debug symbols, an agent or a word from the guest: ` +
      `its kernel's code was moved by ${hex(guest.kernel.slide)}.\n`,
  );
  const scene = async <Arguments, Answer>(
    line: string,
    command: GuestCommand<Arguments, Answer>,
    args: Arguments,
  ): Promise<void> => output.write(await play(guest, line, command, args, signal));
  await scene('uname', uname, { s: false, n: false, r: false, v: false, m: false });
  await scene('ps', ps, {});
  await scene('ls -l /srv/tree', ls, {
    path: '/srv/tree',
    long: true,
    recursive: false,
    hidden: false,
    directory: false,
  });
  await scene('cat /etc/os-release', cat, { path: '/etc/os-release' });
  await playTool(guest, ['sh', '-c', 'hostname; head -1 /proc/meminfo; ls -l /proc/1/exe'], output);
  await output.write('\nThe guest was running all the while but for these moments, and nothing was written to it.\n');
}

/** Runs a command and shows what it printed, under a line that says what it took. */
async function play<Arguments, Answer>(
  guest: Guest,
  line: string,
  command: GuestCommand<Arguments, Answer>,
  args: Arguments,
  signal: AbortSignal,
): Promise<Buffer> {
  const standstill = guest.counts.totalStandstill;
  const begin = performance.now();
  const answer = await command.ask(guest, { ...COMMON, ...args }, signal);
  const took = milliseconds(performance.now() - begin);
  const stood = milliseconds(guest.counts.totalStandstill - standstill);
  const heading = `\n$ penumbra ${line}     [${took}; the guest stood still for ${stood}]\n`;
  return Buffer.concat([Buffer.from(heading), Buffer.from(command.text(answer, args))]);
}

/** Runs programs of this host; they write to our standard output themselves. */
async function playTool(guest: Guest, words: string[], output: Output): Promise<void> {
  const shown = words.map((word) => (/^[\w-]+$/.test(word) ? word : `'${word}'`)).join(' ');
  await output.write(`\n$ penumbra run -- ${shown}     [this host's own programs]\n`);
  const { milliseconds: took, guestCalls } = await guest.run(words, { fds: [0, 1, 2] });
  await output.write(`[${milliseconds(took.total)}; the guest's kernel answered ${guestCalls} system calls]\n`);
}

function milliseconds(value: number): string {
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}
