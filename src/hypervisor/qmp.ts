import { EventEmitter, once } from 'node:events';
import { Socket } from 'node:net';
import { addon } from '../binding.js';
import { PenumbraError } from '../errors.js';
import { JsonDocuments } from './jsonDocuments.js';

/** `info mtree -f` of a machine with hundreds of devices stays well below 1 MiB. */
const LARGEST_MESSAGE = 16 * 1024 * 1024;
const GREETING_MS = 2000;
const COMMAND_MS = 10_000;

/** Whoever called listen(2) on the socket: QEMU itself, or what started it and handed the socket on. */
export interface QmpPeer {
  pid: number;
  uid: number;
  gid: number;
}

export interface QmpEvent {
  name: string;
  data: Record<string, unknown>;
}

export interface QmpConnectOptions {
  /** How long QEMU may take to greet, ms. A monitor that serves another client never does. */
  greetingMs?: number;
  /** Called when the peer is known and before anything is awaited from it; what it throws is thrown by `connect`. */
  onPeer?: (peer: QmpPeer) => void | Promise<void>;
}

export interface QmpExecuteOptions {
  /** File descriptors that go with the command; QEMU gets duplicates. */
  fds?: readonly number[];
  timeoutMs?: number;
}

interface Pending {
  command: string;
  resolve: (value: unknown) => void;
  reject: (error: PenumbraError) => void;
  timer: NodeJS.Timeout;
}

interface QmpMessage {
  id?: unknown;
  return?: unknown;
  error?: { class?: string; desc?: string };
  event?: string;
  data?: Record<string, unknown>;
}

/**
 * A QMP session (QEMU's docs/interop/qmp-spec). Commands may be sent without awaiting the former ones: QEMU runs them
 * in order. The socket keeps the process alive only while an answer is due.
 *
 * `events` emits 'event' (QmpEvent) for each asynchronous event and 'close' (PenumbraError) when QEMU ends the session.
 */
export class QmpClient {
  readonly events = new EventEmitter<{ event: [QmpEvent]; close: [PenumbraError] }>();
  readonly #pending = new Map<number, Pending>();
  readonly #documents = new JsonDocuments(LARGEST_MESSAGE);
  readonly #socket: Socket;
  #greeted: ((message: unknown) => void) | undefined;
  #nextId = 1;
  #failure: PenumbraError | undefined;

  private constructor(
    readonly path: string,
    readonly peer: QmpPeer,
    /** For the watchdog; it may be used as long as the session is open. */
    readonly fd: number,
  ) {
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    this.#socket.on('error', (cause) => this.#fail(gone(this.path, cause)));
    this.#socket.on('close', () => this.#fail(gone(this.path)));
  }

  /**
   * Connects to a QMP monitor and negotiates.
   * @throws PenumbraError NO_GUEST (no such socket), GUEST_GONE (nobody listens), PERMISSION, QMP_BUSY (no greeting:
   * another client is served), NOT_QEMU (something else answers)
   */
  static async connect(path: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const { fd, ...peer } = addon.connectUnix(Buffer.from(path));
    const client = new QmpClient(path, peer, fd);
    try {
      await options.onPeer?.(peer);
      checkGreeting(await client.#greeting(options.greetingMs ?? GREETING_MS), path);
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /**
   * @returns what QEMU returns
   * @throws PenumbraError QMP with QEMU's words when it refuses, TIMEOUT, GUEST_GONE when it ends meanwhile
   */
  async execute<T = unknown>(command: string, args?: object, options: QmpExecuteOptions = {}): Promise<T> {
    if (this.#failure) throw this.#failure;
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      const limit = options.timeoutMs ?? COMMAND_MS;
      const timer = setTimeout(() => this.#expire(id, limit), limit);
      this.#pending.set(id, { command, resolve, reject, timer });
    });
    this.#socket.ref();
    const bytes = Buffer.from(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      this.#send(bytes, options.fds ?? []);
    } catch (error) {
      this.#settle(id)?.reject(error instanceof PenumbraError ? error : gone(this.path, error));
    }
    return (await answer) as T;
  }

  /** Runs a command of the human monitor. Its errors come as text: the caller has to look at it. */
  async hmp(line: string): Promise<string> {
    const text = await this.execute('human-monitor-command', { 'command-line': line });
    return String(text).replaceAll('\r\n', '\n');
  }

  /** Ends the session. Answers still due are rejected. */
  async close(): Promise<void> {
    this.#fail(new PenumbraError('GUEST_GONE', 'the QMP session was closed'), false);
    if (this.#socket.closed) return;
    const closed = once(this.#socket, 'close');
    this.#socket.destroy();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #greeting(limit: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => fail(busy(this.path, limit)), limit);
      const fail = (error: PenumbraError): void => {
        settle();
        reject(error);
      };
      const settle = (): void => {
        clearTimeout(timer);
        this.events.off('close', fail);
        this.#greeted = undefined;
      };
      this.events.once('close', fail);
      this.#greeted = (message) => {
        settle();
        resolve(message);
      };
    });
  }

  #send(bytes: Buffer, fds: readonly number[]): void {
    if (fds.length === 0) {
      this.#socket.write(bytes);
      return;
    }
    if (this.#socket.writableLength > 0) throw new PenumbraError('QMP', 'QEMU does not read from its QMP socket');
    addon.sendWithFds(this.fd, bytes, fds);
  }

  #receive(chunk: Buffer): void {
    try {
      // A monitor of another kind (HMP, a serial line) would leave us waiting for a brace.
      if (this.#greeted && !/^\s*\{/.test(chunk.toString('latin1', 0, 64))) this.#greeted(undefined);
      for (const text of this.#documents.push(chunk)) this.#dispatch(JSON.parse(text) as QmpMessage);
    } catch (cause) {
      this.#fail(cause instanceof PenumbraError ? cause : new PenumbraError('NOT_QEMU', notQmp(this.path), { cause }));
      this.#socket.destroy();
    }
  }

  #dispatch(message: QmpMessage): void {
    if (this.#greeted) {
      this.#greeted(message);
    } else if (typeof message.event === 'string') {
      this.events.emit('event', { name: message.event, data: message.data ?? {} });
    } else if (typeof message.id === 'number') {
      const pending = this.#settle(message.id);
      if (!pending) return;
      if (message.error === undefined) pending.resolve(message.return);
      else
        pending.reject(
          new PenumbraError('QMP', `QEMU refuses ${pending.command}: ${message.error.desc ?? 'no reason given'}`),
        );
    }
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (!pending) return undefined;
    clearTimeout(pending.timer);
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#socket.unref();
    return pending;
  }

  #expire(id: number, limit: number): void {
    const pending = this.#settle(id);
    pending?.reject(new PenumbraError('TIMEOUT', `QEMU did not answer ${pending.command} within ${limit} ms`));
  }

  #fail(error: PenumbraError, announce = true): void {
    if (this.#failure) return;
    this.#failure = error;
    for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(error);
    if (announce) this.events.emit('close', error);
  }
}

function checkGreeting(message: unknown, path: string): void {
  const isQmp = typeof message === 'object' && message !== null && 'QMP' in message;
  if (!isQmp) throw new PenumbraError('NOT_QEMU', notQmp(path));
}

function notQmp(path: string): string {
  return `${path} is not a QMP monitor (start QEMU with -qmp unix:PATH,server=on,wait=off)`;
}

function gone(path: string, cause?: unknown): PenumbraError {
  return new PenumbraError('GUEST_GONE', `QEMU closed its QMP socket ${path} (it ended, or the guest shut down)`, {
    cause,
  });
}

function busy(path: string, limit: number): PenumbraError {
  return new PenumbraError(
    'QMP_BUSY',
    `no QMP greeting on ${path} within ${limit} ms: a monitor serves one client at a time, and this one has another, or ` +
      'the socket is no monitor (end the other client, or give QEMU a second monitor: -qmp unix:PATH,server=on,wait=off; ' +
      'a guest of libvirt gets one by <qemu:commandline>)',
  );
}
