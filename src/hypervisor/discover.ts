import { type ErrorCode, PenumbraError } from '../errors.js';
import type { RamKind } from './commandLine.js';
import { guestName, listQemuProcesses, monitorPaths, type QemuProcess, unixSockets } from './qemuProcess.js';
import { QmpClient } from './qmp.js';

/** One row of `penumbra guests`. */
export interface GuestRecord {
  pid: number;
  uid: number;
  name: string;
  accelerator: string;
  /** bytes, as the command line says; undefined where it does not */
  ramSize: bigint | undefined;
  ramKind: RamKind;
  /** the QMP socket to use, undefined where the guest has none that can be reached by path */
  qmp: string | undefined;
  /** QEMU's run state (running, paused, shutdown ...), or why it is not known */
  state: string;
}

const PROBE_MS = 500;

/**
 * The QEMU guests on this host. A guest's run state is asked of a monitor that serves nobody; one that serves a client
 * is left alone and reported as `busy`.
 */
export async function listGuests(): Promise<GuestRecord[]> {
  return Promise.all(listQemuProcesses().map(describe));
}

/**
 * The guest that is called so, by -name or by pid; without a name the only one there is.
 * @throws PenumbraError NO_GUEST, naming those that there are
 */
export function findGuest(nameOrPid?: string): QemuProcess {
  const guests = listQemuProcesses();
  const named = guests.filter(
    (qemu) => nameOrPid === undefined || guestName(qemu) === nameOrPid || String(qemu.pid) === nameOrPid,
  );
  const [only, ...others] = named;
  if (only && others.length === 0) return only;
  const all = guests.map((qemu) => `${guestName(qemu)} (pid ${qemu.pid})`).join(', ');
  if (guests.length === 0)
    throw new PenumbraError('NO_GUEST', 'no QEMU guest runs on this host (or none that this user can see)');
  if (only) throw new PenumbraError('NO_GUEST', `several guests match, choose one with --guest PID: ${all}`);
  throw new PenumbraError('NO_GUEST', `no guest is called ${nameOrPid}; there are: ${all}`);
}

/**
 * The QMP socket of a guest: the first that serves nobody, otherwise the first.
 * @throws PenumbraError UNSUPPORTED when it has none
 */
export function chooseMonitor(qemu: QemuProcess): string {
  const paths = monitorPaths(qemu);
  const [first] = paths.filter((path) => !isBusy(qemu, path)).concat(paths);
  if (first === undefined) {
    throw new PenumbraError(
      'UNSUPPORTED',
      `guest ${guestName(qemu)} has no QMP socket (start QEMU with -qmp unix:PATH,server=on,wait=off)`,
    );
  }
  return first;
}

async function describe(qemu: QemuProcess): Promise<GuestRecord> {
  const paths = monitorPaths(qemu);
  const free = paths.find((path) => !isBusy(qemu, path));
  return {
    pid: qemu.pid,
    uid: qemu.uid,
    name: guestName(qemu),
    accelerator: qemu.commandLine.accelerator,
    ramSize: qemu.commandLine.ramSize,
    ramKind: qemu.commandLine.ramKind,
    qmp: free ?? paths[0],
    state: free === undefined ? (paths.length > 0 ? 'busy' : 'no QMP') : await probeState(free),
  };
}

const STATE_OF_FAILURE: Partial<Record<ErrorCode, string>> = {
  PERMISSION: 'no permission',
  QMP_BUSY: 'busy',
  GUEST_GONE: 'gone',
  NO_GUEST: 'unreachable',
  NOT_QEMU: 'no QMP',
};

async function probeState(path: string): Promise<string> {
  try {
    await using qmp = await QmpClient.connect(path, { greetingMs: PROBE_MS });
    return (await qmp.execute<{ status: string }>('query-status')).status;
  } catch (error) {
    return (error instanceof PenumbraError && STATE_OF_FAILURE[error.code]) || 'unknown';
  }
}

/** The kernel shows an accepted connection under the path of its listener. */
function isBusy(qemu: QemuProcess, path: string): boolean {
  const own = path.replace(`/proc/${qemu.pid}/root`, '');
  return unixSockets(qemu.pid).some(
    (socket) => socket.connected && (socket.path === own || own.endsWith(`/${socket.path}`)),
  );
}
