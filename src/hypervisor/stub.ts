import { addon } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { type NativeWatchdog, type WatchdogOrder, watchdogPhases } from './native.js';
import { commandOf, isRunning, startTimeOf } from './qemuProcess.js';
import type { QmpClient } from './qmp.js';

export interface StubOptions {
  /** path of the program penumbra-watchdog */
  watchdog: string;
  /** the chardevs or addresses that QEMU's command line gives to a gdbserver of somebody else */
  gdbservers: readonly string[];
  /** of the watchdog's vCPUs */
  vcpuFds: readonly number[];
  /**
   * Takes over `fd` and speaks the first words with the stub, at once and without waiting for anything else: QEMU opens
   * the stub while this runs, and the guest stands still until it lets it run on (if it was found running). It tells the
   * watchdog about every stop and resume.
   */
  handshake: (fd: number, foundRunning: boolean, watchdog: NativeWatchdog) => Promise<void>;
  /** Ends the native talk: leaves the guest in the run state found, once QEMU has taken notice. */
  detach: () => Promise<void>;
}

/** A gdbstub without a path that QEMU runs for us alone. */
export interface PrivateStub {
  /** QEMU's run state before anything was done: 'running', 'paused', 'prelaunch' ... */
  readonly foundState: string;
  readonly foundRunning: boolean;
  readonly watchdog: NativeWatchdog;
  /** Takes the stub down and restores the run state that was found. May be called twice. */
  close(): Promise<void>;
}

interface RunState {
  status: string;
  running: boolean;
}

/** Marks our chardevs, so that one which outlived its penumbra can be told and removed: penumbra-PID-STARTTIME-COUNT. */
const CHARDEV_PREFIX = 'penumbra-';
const CHARDEV_OWNER = /^penumbra-(\d+)-(\d+)-/;

/** In these states QEMU has no guest that could be looked into. */
const UNUSABLE_STATES = new Set(['inmigrate', 'postmigrate', 'shutdown', 'internal-error']);

let count = 0;

/**
 * Switches a gdbstub of QEMU's on, over a socketpair, and starts the watchdog that takes it down if this process is
 * killed. Nothing is left behind on failure.
 *
 * QEMU's side is `getfd`, `chardev-add` with that fd, HMP `gdbserver chardev:ID`; opening the stub stops the guest.
 * @throws PenumbraError STUB when QEMU refuses or has a gdbserver already, UNSUPPORTED in a run state without a guest,
 * BUSY when a penumbra of another user, whose lock we do not see, has the guest
 */
export async function openStub(qmp: QmpClient, options: StubOptions): Promise<PrivateStub> {
  const [found, chardevs] = await Promise.all([
    qmp.execute<RunState>('query-status'),
    qmp.execute<{ label: string; filename: string }[]>('query-chardev'),
  ]);
  if (UNUSABLE_STATES.has(found.status))
    throw new PenumbraError('UNSUPPORTED', `the guest is in QEMU's state ${found.status}`);
  refuseForeignServer(chardevs, options.gdbservers);
  await removeLeftovers(qmp, chardevs);

  const id = `${CHARDEV_PREFIX}${process.pid}-${startTimeOf(process.pid)}-${++count}`;
  const [ours, theirs] = addon.socketPair();
  let watchdog: NativeWatchdog;
  try {
    watchdog = new addon.Watchdog({
      executable: options.watchdog,
      stubFd: ours,
      qmpFd: qmp.fd,
      vcpuFds: options.vcpuFds,
      foundRunning: found.running,
      undo: undoOrder(id),
      resume: resumeOrder(id),
    });
  } catch (error) {
    addon.closeFd(ours);
    addon.closeFd(theirs);
    throw error;
  }

  const stub = new Stub(qmp, id, found, watchdog, options);
  let handshake: Promise<void> | undefined;
  try {
    watchdog.setPhase(watchdogPhases.running);
    await addChardev(qmp, id, theirs);
    watchdog.setPhase(watchdogPhases.standing);
    // Before the command that opens the stub: the first packets wait in the socket, and the guest stands for no longer
    // than the talk takes.
    handshake = options.handshake(ours, found.running, watchdog);
    const [answer] = await Promise.all([qmp.hmp(`gdbserver chardev:${id}`), handshake]);
    if (!answer.includes('Waiting for gdb connection'))
      throw new PenumbraError('STUB', `QEMU does not open a gdbstub: ${answer.trim()}`);
    return stub;
  } catch (error) {
    if (!handshake) addon.closeFd(ours);
    await stub.abort();
    await handshake?.catch(() => undefined);
    throw error;
  } finally {
    addon.closeFd(theirs);
  }
}

class Stub implements PrivateStub {
  #closing: Promise<void> | undefined;

  constructor(
    private readonly qmp: QmpClient,
    private readonly id: string,
    private readonly found: RunState,
    readonly watchdog: NativeWatchdog,
    private readonly options: StubOptions,
  ) {}

  get foundState(): string {
    return this.found.status;
  }

  get foundRunning(): boolean {
    return this.found.running;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** After a failure on the way in: QEMU first, which ends a talk that waits for it. */
  async abort(): Promise<void> {
    this.#closing ??= this.#takeDown(false).catch(() => undefined);
    await this.#closing;
    await this.options.detach().catch(() => undefined);
    this.watchdog.release();
  }

  async #close(): Promise<void> {
    // A talk that failed must not keep us from the rest.
    const detached = await this.options.detach().then(
      () => true,
      () => false,
    );
    try {
      await this.#takeDown(detached);
    } catch (error) {
      if (!(error instanceof PenumbraError && error.code === 'GUEST_GONE')) throw error;
    } finally {
      this.watchdog.release();
    }
  }

  async #takeDown(detached: boolean): Promise<void> {
    this.watchdog.setPhase(detached ? watchdogPhases.running : watchdogPhases.detaching);
    const steps = [
      this.qmp.hmp('gdbserver none'),
      // These two fail unless a step on the way in did: QEMU removes the chardev with the gdbserver.
      this.qmp.execute('chardev-remove', { id: this.id }).catch(ignoreRefusal),
      this.qmp.execute('closefd', { fdname: this.id }).catch(ignoreRefusal),
      ...(this.found.running && !detached ? [this.qmp.execute('cont').catch(ignoreRefusal)] : []),
    ];
    const failed = (await Promise.allSettled(steps)).find((step) => step.status === 'rejected');
    if (failed) throw failed.reason;
  }
}

function ignoreRefusal(error: unknown): void {
  if (!(error instanceof PenumbraError) || error.code !== 'QMP') throw error;
}

/**
 * QEMU has one gdbserver; ours would replace that of the user, and with it his debugger. -gdb with an address makes a
 * chardev called "gdb" (QEMU's gdbserver_start); -gdb chardev:ID uses one of another name.
 */
function refuseForeignServer(chardevs: { label: string }[], gdbservers: readonly string[]): void {
  const labels = new Set(['gdb', ...gdbservers.map((device) => device.replace(/^chardev:/, ''))]);
  const foreign = chardevs.find((chardev) => labels.has(chardev.label));
  if (!foreign) return;
  throw new PenumbraError(
    'STUB',
    `this QEMU has a gdbserver already (chardev ${foreign.label}), which penumbra would take away from its user ` +
      "(start QEMU without -gdb and -s, or end it by the monitor command 'gdbserver none')",
  );
}

/** What this user's other processes have is locked: a chardev belongs to nobody, or to a penumbra of somebody else. */
async function removeLeftovers(qmp: QmpClient, chardevs: { label: string }[]): Promise<void> {
  const leftovers = chardevs.filter((chardev) => chardev.label.startsWith(CHARDEV_PREFIX));
  if (leftovers.length === 0) return;
  for (const { label } of leftovers) refuseOwned(label);
  await qmp.hmp('gdbserver none');
  await Promise.all(leftovers.map(({ label }) => qmp.execute('chardev-remove', { id: label }).catch(ignoreRefusal)));
}

function refuseOwned(label: string): void {
  const [, number, startTime] = CHARDEV_OWNER.exec(label) ?? [];
  if (number === undefined || startTime === undefined) return;
  const pid = Number(number);
  if (pid === process.pid || !isRunning(pid, BigInt(startTime))) return;
  throw new PenumbraError('BUSY', `the guest is in use by process ${pid} (${commandOf(pid)}): wait for it or end it`);
}

async function addChardev(qmp: QmpClient, id: string, fd: number): Promise<void> {
  const address = { type: 'fd', data: { str: id } };
  await Promise.all([
    qmp.execute('getfd', { fdname: id }, { fds: [fd] }),
    qmp.execute('chardev-add', { id, backend: { type: 'socket', data: { addr: address, server: false } } }),
  ]);
}

/** Undoes each step of openStub, whichever were done; a half-sent command is cleared by the 0xff (qmp-spec, 2.7). */
function undoOrder(id: string): WatchdogOrder {
  return order([
    [`${id}-undo-1`, 'closefd', { fdname: id }],
    [`${id}-undo-2`, 'human-monitor-command', { 'command-line': 'gdbserver none' }],
    [`${id}-undo-3`, 'chardev-remove', { id }],
  ]);
}

function resumeOrder(id: string): WatchdogOrder {
  return order([[`${id}-undo-4`, 'cont', undefined]]);
}

function order(commands: [id: string, command: string, args: object | undefined][]): WatchdogOrder {
  const lines = commands.map(([id, execute, args]) => `${JSON.stringify({ execute, arguments: args, id })}\n`);
  const bytes = Buffer.concat([Buffer.from([0xff]), Buffer.from(lines.join(''))]);
  return { bytes, lastId: commands.at(-1)?.[0] ?? '' };
}
