import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

type Json = { [key: string]: unknown };

/** An event as QEMU reports it. */
export interface MonitorEvent {
  event: string;
  data?: Json;
}

/**
 * A QMP client of the tests' own, so that what penumbra does is checked without penumbra's code.
 * Protocol: docs/interop/qmp-spec in QEMU's tree.
 */
export class TruthMonitor {
  readonly events: MonitorEvent[] = [];
  readonly #socket: Socket;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #lastId = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    createInterface({ input: socket }).on('line', (line) => this.#take(JSON.parse(line) as Json));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#end());
  }

  static async connect(path: string): Promise<TruthMonitor> {
    const socket = connect(path);
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    const monitor = new TruthMonitor(socket);
    await monitor.execute('qmp_capabilities');
    return monitor;
  }

  execute(command: string, parameters: Json = {}): Promise<unknown> {
    const id = ++this.#lastId;
    const answer = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: parameters, id })}\n`);
    return answer;
  }

  close(): void {
    this.#socket.destroy();
  }

  #take(message: Json): void {
    if (typeof message.event === 'string') this.events.push(message as unknown as MonitorEvent);
    const waiter = this.#waiting.get(message.id as number);
    if (waiter === undefined) return;
    this.#waiting.delete(message.id as number);
    if ('error' in message) waiter.reject(new Error(JSON.stringify(message.error)));
    else waiter.resolve(message.return);
  }

  #end(): void {
    for (const waiter of this.#waiting.values()) waiter.reject(new Error('the truth monitor is closed'));
    this.#waiting.clear();
  }
}
