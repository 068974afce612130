import { createHash } from 'node:crypto';
import { open, readdir, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { type CommandResult, LabGuest, type LabSpec, type StartOptions } from '../../src/lab/index.js';
import { type MonitorEvent, TruthMonitor } from './truthMonitor.js';

const HASH_CHUNK = 4 << 20;
/** How often a guest is looked at for a moment that comes soon in any guest that runs. */
const MOST_LOOKS = 2000;

/**
 * Boots a guest for a test: `await using guest = await labGuest(t, { kernel: '6.1', load: 'forks' })`. It ends with
 * its scope, at the latest with the test; when the test failed, what the guest printed last becomes a comment.
 */
export async function labGuest(t: Test, spec: Partial<LabSpec> = {}, options: StartOptions = {}): Promise<TestGuest> {
  const guest = new TestGuest(await LabGuest.start(spec, options), t);
  t.teardown(() => guest.stop());
  return guest;
}

/** A guest, and every way to ask it, and QEMU, for the truth. */
export class TestGuest implements AsyncDisposable {
  readonly lab: LabGuest;
  readonly #test: Test;
  #monitor: TruthMonitor | undefined;
  #stopped = false;

  constructor(lab: LabGuest, test: Test) {
    this.lab = lab;
    this.#test = test;
  }

  get spec(): Readonly<LabSpec> {
    return this.lab.spec;
  }

  get pid(): number {
    return this.lab.pid;
  }

  /** The QMP socket for penumbra. */
  get socket(): string {
    return this.lab.qmp;
  }

  /** Runs a shell command in the guest. */
  run(command: string | Buffer, timeoutMs?: number): Promise<CommandResult> {
    return this.lab.run(command, timeoutMs);
  }

  /** What a command that must succeed prints, without the last newline. */
  async text(command: string): Promise<string> {
    const { stdout, stderr, status } = await this.run(command);
    if (status !== 0) throw new Error(`in the guest: ${command}: status ${status}: ${stderr.toString()}`);
    return stdout.toString().replace(/\n$/, '');
  }

  /** A QMP command on the tests' own monitor. */
  async qmp(command: string, parameters: { [key: string]: unknown } = {}): Promise<unknown> {
    this.#monitor ??= await TruthMonitor.connect(this.lab.files.truth);
    return this.#monitor.execute(command, parameters);
  }

  /** A line for QEMU's human monitor, for instance `gva2gpa 0xffffffff81000000`. */
  async hmp(line: string): Promise<string> {
    return (await this.qmp('human-monitor-command', { 'command-line': line })) as string;
  }

  /** What QEMU's monitor says of an address with the page tables that the first virtual processor uses right now. */
  async gva2gpa(address: bigint): Promise<bigint | undefined> {
    const answer = await this.hmp(`gva2gpa 0x${address.toString(16)}`);
    const gpa = /gpa: (0x[0-9a-f]+)/.exec(answer)?.[1];
    if (gpa === undefined && !/Unmapped/.test(answer)) throw new Error(`gva2gpa: ${answer}`);
    return gpa === undefined ? undefined : BigInt(gpa);
  }

  /**
   * The same of an address that the kernel surely maps, in a running guest: isolated page tables have it only while
   * the processor is in the kernel, so it is asked until then.
   */
  async kernelGpa(address: bigint): Promise<bigint> {
    for (let attempt = 0; attempt < MOST_LOOKS; attempt += 1) {
      const gpa = await this.gva2gpa(address);
      if (gpa !== undefined) return gpa;
      await sleep(attempt % 7);
    }
    throw new Error(`0x${address.toString(16)} is never mapped`);
  }

  /** Stops the guest with its first virtual processor in user mode or in the kernel, and gives its registers. */
  async stopIn(mode: 'user' | 'kernel'): Promise<Map<string, bigint>> {
    for (let attempt = 0; attempt < MOST_LOOKS; attempt += 1) {
      await this.qmp('stop');
      const registers = await this.registers();
      if (((registers.get('cs') as bigint) & 3n) === (mode === 'user' ? 3n : 0n)) return registers;
      await this.qmp('cont');
      await sleep(attempt % 7);
    }
    throw new Error(`the guest is never found in mode ${mode}`);
  }

  /** What QEMU reported since the first use of its monitor. */
  get events(): readonly MonitorEvent[] {
    return this.#monitor?.events ?? [];
  }

  /** `running`, `paused` ... as QEMU sees it. */
  async runState(): Promise<string> {
    return ((await this.qmp('query-status')) as { status: string }).status;
  }

  /**
   * Registers of a virtual processor as QEMU prints them, by their names in lower case; `fs` and `gs` are selectors,
   * `fsBase` and `gsBase` their bases, `kernelGsBase` is not printed.
   */
  async registers(vcpu = 0): Promise<Map<string, bigint>> {
    const parameters = { 'command-line': 'info registers', 'cpu-index': vcpu };
    const printed = (await this.qmp('human-monitor-command', parameters)) as string;
    const values = new Map<string, bigint>();
    for (const [, name, value, base] of printed.matchAll(/\b([A-Z][A-Z0-9]{1,3}) *=([0-9a-f]+)(?: ([0-9a-f]{16}))?/g)) {
      values.set((name as string).toLowerCase(), BigInt(`0x${value}`));
      if (base !== undefined) values.set(`${(name as string).toLowerCase()}Base`, BigInt(`0x${base}`));
    }
    return values;
  }

  /**
   * A digest of all guest RAM; pause the guest first (`qmp('stop')`). Only for RAM in a shared file. Holes are read as
   * zeros and stay holes.
   */
  async ramHash(): Promise<string> {
    await using file = await open(await this.#ramFile(), 'r');
    const hash = createHash('sha256');
    const chunk = Buffer.allocUnsafe(HASH_CHUNK);
    for (let position = 0; ; ) {
      const { bytesRead } = await file.read(chunk, 0, chunk.length, position);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(chunk.subarray(0, bytesRead));
      position += bytesRead;
    }
  }

  async #ramFile(): Promise<string> {
    if (this.spec.ram === 'file') return this.lab.files.ram;
    const folder = `/proc/${this.pid}/fd`;
    for (const name of await readdir(folder)) {
      const target = await readlink(`${folder}/${name}`).catch(() => '');
      if (target.startsWith('/memfd:memory-backend-memfd')) return `${folder}/${name}`;
    }
    throw new Error(`guest RAM of kind ${this.spec.ram} is in no file`);
  }

  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#monitor?.close();
    if (!this.#test.passing()) this.#test.comment(`the guest printed last: ${await this.lab.lastWords()}`);
    await this.lab.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
