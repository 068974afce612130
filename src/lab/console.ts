import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { PenumbraError } from '../errors.js';

/** What a command did in the guest. */
export interface CommandResult {
  stdout: Buffer;
  stderr: Buffer;
  /** Exit status; 128 and the signal's number for a command ended by a signal. */
  status: number;
}

/** The header of an answer: see src/lab/userland/etc/lab/serve. */
const HEADER_START = '\x01lab ';
const HEADER = /^lab (\w+) (\d+) (\d+) (\d+)\n/;
const LONGEST_HEADER = 80;
const READY = 'ready';

interface Waiter {
  id: string;
  resolve: (result: CommandResult) => void;
  reject: (error: Error) => void;
}

/** The driver's end of a guest's second serial port: runs commands in the guest, one after the other. */
export class LabConsole {
  readonly #socket: Socket;
  #received: Buffer = Buffer.alloc(0);
  #waiter: Waiter | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    // A console that is not in use keeps no process alive; one that waits for an answer has its timer.
    socket.unref();
    socket.on('data', (bytes) => this.#take(bytes));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#end());
  }

  /** Connects to QEMU's console socket. Throws the system's error when nobody listens there. */
  static connect(path: string): Promise<LabConsole> {
    return new Promise((resolve, reject) => {
      const socket = connect(path);
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new LabConsole(socket));
      });
    });
  }

  /** Waits until the guest's userland is up. To be called once, before anything else, on a guest that boots. */
  ready(timeoutMs: number): Promise<unknown> {
    return this.#inTurn(READY, '', timeoutMs, 'the guest did not come up');
  }

  /**
   * Runs a shell command as root in the guest. Bytes pass unchanged both ways; the command must hold no NUL.
   * Throws TIMEOUT when no answer came in `timeoutMs` (the command goes on in the guest), GUEST_GONE when QEMU ended.
   */
  run(command: string | Buffer, timeoutMs: number): Promise<CommandResult> {
    const text = Buffer.from(command);
    if (text.includes(0)) throw new PenumbraError('BAD_ARGUMENT', 'a command for a lab guest holds no NUL byte');
    const id = randomBytes(6).toString('hex');
    const lines = text.toString('latin1').split('\n').length;
    const request = Buffer.concat([Buffer.from(`${id} ${lines}\n`), text, Buffer.from('\n')]);
    return this.#inTurn(id, request, timeoutMs, `no answer to: ${text.subarray(0, 60).toString()}`);
  }

  close(): void {
    this.#socket.destroy();
  }

  #inTurn(id: string, request: string | Buffer, timeoutMs: number, complaint: string): Promise<CommandResult> {
    const result = this.#queue.then(() => this.#exchange(id, request, timeoutMs, complaint));
    this.#queue = result.catch(() => undefined);
    return result;
  }

  #exchange(id: string, request: string | Buffer, timeoutMs: number, complaint: string): Promise<CommandResult> {
    return new Promise<CommandResult>((resolve, reject) => {
      if (this.#closed) return reject(gone());
      const late = () => reject(new PenumbraError('TIMEOUT', `${complaint} (waited ${timeoutMs} ms)`));
      const timer = setTimeout(late, timeoutMs);
      this.#waiter = {
        id,
        resolve: (result) => {
          clearTimeout(timer);
          resolve(result);
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      this.#socket.write(request);
      this.#deliver();
    });
  }

  #take(bytes: Buffer): void {
    this.#received = Buffer.concat([this.#received, bytes]);
    this.#deliver();
  }

  /** Hands over every complete answer; one that nobody waits for any more is dropped. */
  #deliver(): void {
    for (let answer = this.#nextAnswer(); answer !== undefined; answer = this.#nextAnswer()) {
      if (this.#waiter?.id !== answer.id) continue;
      this.#waiter.resolve(answer.result);
      this.#waiter = undefined;
    }
  }

  #nextAnswer(): { id: string; result: CommandResult } | undefined {
    const start = this.#received.indexOf(HEADER_START);
    if (start < 0) return undefined;
    const header = HEADER.exec(this.#received.toString('latin1', start + 1, start + LONGEST_HEADER));
    if (header === null) return undefined;
    const [status, output, errors] = header.slice(2).map(Number) as [number, number, number];
    const body = start + 1 + header[0].length;
    if (this.#received.length < body + output + errors) return undefined;
    const stdout = Buffer.from(this.#received.subarray(body, body + output));
    const stderr = Buffer.from(this.#received.subarray(body + output, body + output + errors));
    this.#received = this.#received.subarray(body + output + errors);
    return { id: header[1] as string, result: { stdout, stderr, status } };
  }

  #end(): void {
    this.#closed = true;
    this.#waiter?.reject(gone());
    this.#waiter = undefined;
  }
}

function gone(): PenumbraError {
  return new PenumbraError('GUEST_GONE', "the lab guest's console is closed: QEMU has ended");
}
