import { fileURLToPath } from 'node:url';
import { addon, type NativeGuest } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { chooseMonitor, findGuest } from '../hypervisor/discover.js';
import { type GuestLock, lockGuest } from '../hypervisor/lock.js';
import { guestName, type QemuProcess, qemuBehindSocket } from '../hypervisor/qemuProcess.js';
import { QmpClient } from '../hypervisor/qmp.js';
import { isSameLayout, openRam, type RamLayoutRegion, readRamLayout } from '../hypervisor/ramLayout.js';
import { openStub, type PrivateStub } from '../hypervisor/stub.js';
import { openVcpus } from '../hypervisor/vcpus.js';
import { NativePhysicalMemory } from './nativeMemory.js';
import type { VcpuState } from './target.js';

/** Which guest: by its QMP socket, or by name or pid among the QEMU processes of this host; without either the only one. */
export interface GuestChoice {
  qmp?: string;
  guest?: string;
}

const stubTimeout = 10_000;
/** QMP events after which the guest's memory is not that of the kernel which was recognised. */
const ENDS: ReadonlyMap<string, string> = new Map([
  ['RESET', 'the guest was reset (attach again when it has booted)'],
  ['SHUTDOWN', 'the guest shut down'],
]);
const watchdogProgram = fileURLToPath(new URL('../../../build/Release/penumbra-watchdog', import.meta.url));

/** QEMU's events (qapi/acpi.json, qapi/qdev.json, qapi/machine.json) after which the guest's RAM may be another. */
const RAM_EVENTS = new Set(['ACPI_DEVICE_OST', 'DEVICE_DELETED', 'MEMORY_DEVICE_SIZE_CHANGE']);

/**
 * A running (or paused) QEMU guest: its memory, its vCPUs, and stop and resume. From `open` until `close`
 * it is locked for other penumbras, and a watchdog restores its run state should this process die.
 */
export class LiveTarget implements AsyncDisposable {
  readonly qemu: QemuProcess;
  readonly memory: NativePhysicalMemory;
  readonly native: NativeGuest;
  /** The vCPUs as they were when the stub was opened. */
  readonly vcpus: readonly VcpuState[];
  /** why the vCPUs' threads are left alone */
  readonly #noVcpus: string | undefined;
  readonly #qmp: QmpClient;
  readonly #stub: PrivateStub;
  readonly #lock: GuestLock;
  #layout: readonly RamLayoutRegion[];
  #ramMayDiffer = false;
  #closing: Promise<void> | undefined;
  readonly #gone = new AbortController();
  /** Called when QEMU reports what may have changed the guest's RAM; `followRam` finds out. */
  onRamEvent: () => void = () => undefined;

  private constructor(parts: {
    qemu: QemuProcess;
    layout: readonly RamLayoutRegion[];
    memory: NativePhysicalMemory;
    native: NativeGuest;
    vcpus: readonly VcpuState[];
    noVcpus: string | undefined;
    qmp: QmpClient;
    stub: PrivateStub;
    lock: GuestLock;
  }) {
    this.qemu = parts.qemu;
    this.#layout = parts.layout;
    this.memory = parts.memory;
    this.native = parts.native;
    this.vcpus = parts.vcpus;
    this.#noVcpus = parts.noVcpus;
    this.#qmp = parts.qmp;
    this.#stub = parts.stub;
    this.#lock = parts.lock;
    this.#qmp.events.once('close', (error) => this.#gone.abort(error));
    this.#qmp.events.on('event', ({ name }) => {
      const message = ENDS.get(name);
      // Fails when it was given back meanwhile.
      if (message !== undefined) this.native.setGone(message).catch(() => undefined);
      // QEMU sends some of them whenever the guest likes: one look is due, however many came.
      if (!RAM_EVENTS.has(name) || this.#ramMayDiffer) return;
      this.#ramMayDiffer = true;
      this.onRamEvent();
    });
  }

  /**
   * @throws PenumbraError NO_GUEST, NOT_QEMU, QMP_BUSY, BUSY, PERMISSION, UNSUPPORTED, STUB, GUEST_GONE
   */
  static async open(choice: GuestChoice): Promise<LiveTarget> {
    const undo: (() => void | Promise<void>)[] = [];
    try {
      let qemu: QemuProcess | undefined;
      let lock: GuestLock | undefined;
      const path = choice.qmp ?? chooseMonitor(findGuest(choice.guest));
      const qmp = await QmpClient.connect(path, {
        // Locked first: a monitor that another penumbra uses would only be silent.
        onPeer: ({ pid }) => {
          qemu = qemuBehindSocket(path, pid);
          lock = lockGuest(qemu);
          undo.push(() => lock?.release());
        },
      });
      undo.push(() => qmp.close());
      if (qemu === undefined || lock === undefined) throw new PenumbraError('INTERNAL', 'a QMP session without a peer');

      const layout = await readRamLayout(qmp, qemu.pid);
      const ram = openRam(qemu.pid, layout);
      let native: NativeGuest;
      try {
        native = new addon.Guest(ram.regions);
      } finally {
        ram.close();
      }
      undo.push(() => native.close());
      let vcpus: VcpuState[] = [];
      const opened = await openVcpus(qmp, qemu.pid);
      const handles = typeof opened === 'string' ? undefined : opened;
      const { pid } = qemu;
      let stub: PrivateStub;
      try {
        stub = await openStub(qmp, {
          watchdog: watchdogProgram,
          gdbservers: qemu.commandLine.gdbservers,
          vcpuFds: handles?.fds ?? [],
          handshake: async (fd, foundRunning, watchdog) => {
            vcpus = await native.connectStub(fd, watchdog, foundRunning, stubTimeout, handles, pid);
          },
          detach: () => native.detachStub(stubTimeout),
        });
      } finally {
        for (const fd of handles?.fds ?? []) addon.closeFd(fd);
      }
      const memory = new NativePhysicalMemory(native, ram.regions);
      const noVcpus = typeof opened === 'string' ? opened : undefined;
      return new LiveTarget({ qemu, layout, memory, native, vcpus, noVcpus, qmp, stub, lock });
    } catch (error) {
      for (const step of undo.reverse()) await step();
      throw error;
    }
  }

  get name(): string {
    return guestName(this.qemu);
  }

  /** How short stops are made and the registers read, and why. */
  async stopWay(): Promise<{ way: 'gdbstub' | 'kvm_run'; reason: string }> {
    const { holds, refusal } = await this.native.stopWay();
    if (!holds) return { way: 'gdbstub', reason: this.#noVcpus ?? refusal };
    return {
      way: 'kvm_run',
      reason: 'KVM leaves the registers in memory shared with QEMU, whose vCPU threads are held',
    };
  }

  /** QEMU's run state as it was found, and as it is left. */
  get foundState(): string {
    return this.#stub.foundState;
  }

  /** Aborted when QEMU ends by itself; the reason is a PenumbraError GUEST_GONE. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** Where the guest's RAM is, as of the last time QEMU was asked. */
  get layout(): readonly RamLayoutRegion[] {
    return this.#layout;
  }

  /**
   * Takes over RAM that was plugged and lets go of what was unplugged. Asks QEMU where it reported a change, or always
   * when `force` is set. The shadow must not be in use: it is gone when the answer is true.
   * @throws PenumbraError as `open`
   */
  async followRam(force = false): Promise<boolean> {
    if (!this.#ramMayDiffer && !force) return false;
    this.#ramMayDiffer = false;
    try {
      const layout = await readRamLayout(this.#qmp, this.qemu.pid);
      if (isSameLayout(layout, this.#layout)) return false;
      const ram = openRam(this.qemu.pid, layout);
      try {
        await this.memory.replace(ram.regions);
      } finally {
        ram.close();
      }
      this.#layout = layout;
      return true;
    } catch (error) {
      this.#ramMayDiffer = true;
      throw error;
    }
  }

  /** First guest-physical address above all RAM, rounded up so that it can hold memory of the shadow's own. */
  get scratchGpa(): bigint {
    let top = 0n;
    for (const { gpa, size } of this.layout) if (gpa + size > top) top = gpa + size;
    const alignment = 1n << 30n;
    return ((top + alignment - 1n) / alignment) * alignment + alignment;
  }

  /** Takes everything down and leaves the guest as it was found. May be called twice. */
  async close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    try {
      await this.#stub.close();
    } finally {
      await this.#qmp.close();
      this.#lock.release();
      await this.native.close();
    }
  }
}
