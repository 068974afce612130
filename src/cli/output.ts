import { writeSync, write as writeWithCallback } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { jsonText } from '../text.js';
import { toJson } from './json.js';

const write = promisify(writeWithCallback);
const STANDARD_OUTPUT = 1;
const STANDARD_ERROR = 2;
/** A non-blocking terminal or pipe that is full is tried again after, ms. */
const FULL_PAUSE = 2;

/**
 * Standard output without process.stdout, which blocks this process while a pipe is full: a guest that stands still for
 * `penumbra cat` would stay so until the reader reads on.
 */
export class Output {
  readonly #closed: (reason: unknown) => void;
  #pending = 0;

  /** @param closed called when nobody reads any more */
  constructor(closed: (reason: unknown) => void) {
    this.#closed = closed;
  }

  /** Whether a write is waiting for the reader. */
  get isPending(): boolean {
    return this.#pending > 0;
  }

  /** @throws OutputClosed when nobody reads any more */
  async write(data: string | Buffer): Promise<void> {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    this.#pending += 1;
    try {
      for (let at = 0; at < bytes.length; ) at += await writeSome(bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
      const reason = new OutputClosed();
      this.#closed(reason);
      throw reason;
    } finally {
      this.#pending -= 1;
    }
  }

  /** One JSON document and a line feed; over several lines on a terminal. */
  async json(value: unknown): Promise<void> {
    const { isatty } = await import('node:tty');
    await this.write(`${jsonText(toJson(value), isatty(STANDARD_OUTPUT) ? 2 : undefined)}\n`);
  }
}

/** The reader of standard output has gone: `penumbra ls / | head -1`. */
export class OutputClosed extends Error {}

/** A line on standard error. Never fails. */
export function complain(line: string): void {
  try {
    writeSync(STANDARD_ERROR, `${line}\n`);
  } catch {
    // There is nobody left to be told.
  }
}

async function writeSome(bytes: Buffer, at: number): Promise<number> {
  try {
    return (await write(STANDARD_OUTPUT, bytes, at, bytes.length - at)).bytesWritten;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    await sleep(FULL_PAUSE);
    return 0;
  }
}
