import { existsSync, rmSync } from 'node:fs';
import { mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PenumbraError } from '../errors.js';
import { findKernel, type LabKernel } from './artefacts.js';
import { type CommandResult, LabConsole } from './console.js';
import type { CpioEntry } from './cpio.js';
import { labInitrd } from './initrd.js';
import { connectConsole, launch } from './launch.js';
import { endWithThisProcess, FOLDER_PREFIX, guestFolders, MEMORY_FOLDER, release } from './lifetime.js';
import { endProcess, isAlive, type ProcessIdentity, pidNamespace, signal } from './process.js';
import { type GuestFiles, guestFiles, qemuCommand } from './qemu.js';
import { completeSpec, type LabSpec } from './spec.js';

const BOOT_TIMEOUT_MS = 180_000;
const RUN_TIMEOUT_MS = 60_000;
const STOP_PATIENCE_MS = 2_000;
const LOG_TAIL = 2_000;
/** unix(7): sun_path holds 108 bytes with the NUL. */
const LONGEST_SOCKET_PATH = 107;

export interface StartOptions {
  /** An existing folder for the guest's files; a new one under the temporary directory when left out. */
  folder?: string;
  /** Leave the guest running when this process ends. */
  outlive?: boolean;
  /** Further files for the guest's root; they come before the lab's own of the same name. */
  files?: readonly CpioEntry[];
  /** A command that QEMU's is appended to, to have it run in other circumstances: as another user, in other namespaces. */
  within?: readonly string[];
}

/** What a guest's folder says of it, for other processes. */
interface GuestRecord {
  process: ProcessIdentity;
  /** of pids, in which `process` has its pid */
  namespace: string;
  spec: LabSpec;
  /** What `uname -r` says in the guest. */
  release: string;
  /** From QEMU's start until userland was up; undefined while it boots. */
  bootMs?: number;
}

/** A guest of the lab. */
export class LabGuest implements AsyncDisposable {
  readonly folder: string;
  readonly files: GuestFiles;
  readonly #record: GuestRecord;
  #console: LabConsole | undefined;

  private constructor(folder: string, record: GuestRecord) {
    this.folder = folder;
    this.files = guestFiles(folder);
    this.#record = record;
  }

  /**
   * Boots a guest and waits until it answers. Throws BAD_ARGUMENT for a bad spec, UNSUPPORTED when a kernel or an
   * emulator is not there, GUEST_GONE or TIMEOUT, with what the guest printed last, when it did not come up.
   */
  static async start(wanted: Partial<LabSpec> = {}, options: StartOptions = {}): Promise<LabGuest> {
    const spec = completeSpec(wanted);
    const kernel = await findKernel(spec.kernel);
    await sweep();
    const folder = options.folder ?? (await mkdtemp(join(folderBase(spec), FOLDER_PREFIX)));
    try {
      await prepare(spec, kernel, guestFiles(folder), options.files ?? []);
      const guest = await LabGuest.#launch(spec, kernel, folder, options);
      await guest.#boot();
      if (options.outlive === true) guest.#letGo();
      return guest;
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** The guest that lives in `folder`, running or not; undefined when none was ever started there. */
  static async open(folder: string): Promise<LabGuest | undefined> {
    const text = await readFile(guestFiles(folder).record, 'utf8').catch(() => undefined);
    return text === undefined ? undefined : new LabGuest(folder, JSON.parse(text) as GuestRecord);
  }

  static async #launch(
    spec: LabSpec,
    kernel: LabKernel,
    folder: string,
    { outlive = false, within = [] }: StartOptions,
  ): Promise<LabGuest> {
    const files = guestFiles(folder);
    const qemu = await qemuCommand(spec, kernel, files);
    const [program = qemu.program, ...words] = [...within, qemu.program];
    const command = { program, arguments: [...words, ...qemu.arguments] };
    const process = await launch(command, files.emulatorLog, outlive);
    const guest = new LabGuest(folder, { process, namespace: pidNamespace(), spec, release: kernel.release });
    endWithThisProcess(guest);
    await guest.#writeRecord();
    return guest;
  }

  async #boot(): Promise<void> {
    const started = performance.now();
    try {
      this.#console = await connectConsole(this.files.console, this.#record.process);
      await this.#console.ready(BOOT_TIMEOUT_MS);
    } catch (error) {
      const printed = await this.lastWords();
      await this.stop();
      throw explain(error, printed);
    }
    this.#record.bootMs = performance.now() - started;
    await this.#writeRecord();
    await rm(this.files.initrd);
  }

  get spec(): Readonly<LabSpec> {
    return this.#record.spec;
  }

  /** What `uname -r` says in the guest. */
  get release(): string {
    return this.#record.release;
  }

  /** QEMU's process. */
  get pid(): number {
    return this.#record.process.pid;
  }

  get isRunning(): boolean {
    return isAlive(this.#record.process);
  }

  /** Its QEMU has ended, as far as that can be told: from another pid namespace it cannot. */
  get isLeftOver(): boolean {
    return this.#record.namespace === pidNamespace() && !this.isRunning;
  }

  /** Milliseconds from QEMU's start until userland was up; undefined while the guest boots. */
  get bootMs(): number | undefined {
    return this.#record.bootMs;
  }

  /** Path of the QMP socket meant for penumbra. */
  get qmp(): string {
    return this.files.qmp;
  }

  /**
   * Runs a shell command as root in the guest, byte for byte. An exit status other than 0 is an answer, not an error.
   * Throws TIMEOUT (in ms; also when the guest is paused), GUEST_GONE.
   */
  async run(command: string | Buffer, timeoutMs = RUN_TIMEOUT_MS): Promise<CommandResult> {
    this.#console ??= await LabConsole.connect(this.files.console);
    return this.#console.run(command, timeoutMs);
  }

  /** The end of what QEMU and the guest's kernel printed. */
  async lastWords(): Promise<string> {
    const logs = await Promise.all([this.files.emulatorLog, this.files.kernelLog].map(readIfThere));
    return logs.map((log) => log.slice(-LOG_TAIL).trim()).join('\n');
  }

  /** Ends QEMU and removes the folder. May be called twice. */
  async stop(): Promise<void> {
    this.#console?.close();
    await endProcess(this.#record.process, STOP_PATIENCE_MS);
    await rm(this.folder, { recursive: true, force: true });
    release(this);
  }

  /** The same at once, without waiting for QEMU to end. */
  stopNow(): void {
    signal(this.#record.process, 'SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  #letGo(): void {
    release(this);
    this.#console?.close();
    this.#console = undefined;
  }

  async #writeRecord(): Promise<void> {
    const unfinished = `${this.files.record}.new`;
    await writeFile(unfinished, `${JSON.stringify(this.#record, null, 2)}\n`, { mode: 0o600 });
    await rename(unfinished, this.files.record);
  }
}

/** A RAM file belongs into memory, not on a disk that would be kept busy writing it back. */
function folderBase(spec: LabSpec): string {
  return spec.ram === 'file' && existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : tmpdir();
}

/** Removes what guests of killed processes left behind. */
async function sweep(): Promise<void> {
  for (const folder of await guestFolders()) {
    const guest = await LabGuest.open(folder);
    if (guest?.isLeftOver) await guest.stop();
  }
}

async function prepare(spec: LabSpec, kernel: LabKernel, files: GuestFiles, more: readonly CpioEntry[]): Promise<void> {
  if (Buffer.byteLength(files.console) > LONGEST_SOCKET_PATH) {
    throw new PenumbraError('BAD_ARGUMENT', `${files.console} is too long a path for a socket`);
  }
  await writeFile(files.initrd, await labInitrd(kernel, more));
  if (spec.diskMiB > 0) await writeSparse(files.disk, spec.diskMiB);
}

async function writeSparse(path: string, sizeMiB: number): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.truncate(sizeMiB * 2 ** 20);
}

function explain(error: unknown, printed: string): PenumbraError {
  const code = error instanceof PenumbraError ? error.code : 'GUEST_GONE';
  return new PenumbraError(code, `the lab guest did not come up; it printed:\n${printed}`, { cause: error });
}

function readIfThere(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '');
}
