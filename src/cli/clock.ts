/** Times of a guest as text, in the time zone of this process. */

const NS_PER_MS = 1_000_000n;
const NS_PER_SECOND = 1_000_000_000n;
/** Beyond these, a Date cannot say (ECMAScript time values). */
const LATEST_MS = 8_640_000_000_000_000n;
const DAY_MS = 86_400_000;
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** `2024-11-21 12:08` */
export function minute(ns: bigint): string {
  const date = dateOf(ns);
  return date === undefined
    ? `@${ns / NS_PER_SECOND}`
    : `${day(date)} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** `2024-11-21 12:08:17.123456789 +0000`, as stat(1) prints it */
export function instant(ns: bigint): string {
  const date = dateOf(ns);
  if (date === undefined) return `@${ns / NS_PER_SECOND}`;
  const fraction = BigInt.asUintN(64, ((ns % NS_PER_SECOND) + NS_PER_SECOND) % NS_PER_SECOND);
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':');
  return `${day(date)} ${time}.${String(fraction).padStart(9, '0')} ${zone(date)}`;
}

/** When a process started, as `ps -ef` has it: `12:08` within the last day, otherwise `Nov21`, of another year `2023`. */
export function startOfProcess(ms: number, now = Date.now()): string {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return '?';
  if (now - ms < DAY_MS) return `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (date.getFullYear() !== new Date(now).getFullYear()) return String(date.getFullYear());
  return `${MONTHS[date.getMonth()]}${two(date.getDate())}`;
}

/** Processor time as `00:01:02`, with days as `3-00:01:02`. */
export function duration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  const days = Math.floor(seconds / 86_400);
  const time = [Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60, seconds % 60].map(two).join(':');
  return days > 0 ? `${days}-${time}` : time;
}

function dateOf(ns: bigint): Date | undefined {
  const ms = ns / NS_PER_MS - (ns < 0n && ns % NS_PER_MS !== 0n ? 1n : 0n);
  return ms > LATEST_MS || ms < -LATEST_MS ? undefined : new Date(Number(ms));
}

function day(date: Date): string {
  return `${String(date.getFullYear()).padStart(4, '0')}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

function zone(date: Date): string {
  const minutes = -date.getTimezoneOffset();
  const size = Math.abs(minutes);
  return `${minutes < 0 ? '-' : '+'}${two(Math.floor(size / 60))}${two(size % 60)}`;
}

function two(number: number): string {
  return String(number).padStart(2, '0');
}
