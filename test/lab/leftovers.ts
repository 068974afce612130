import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

/** Sockets of the test itself close in their own time. */
const PATIENCE_MS = 5000;

/** What a process holds of the system's: open files, mappings of files, threads, children, lock files. */
function holdings(): Record<string, string[]> {
  const files = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).replace(/\d+/g, '');
    } catch {
      return 'the folder itself';
    }
  });
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const threads = readdirSync('/proc/self/task');
  const children = threads.flatMap((id) => {
    try {
      return readFileSync(`/proc/self/task/${id}/children`, 'utf8').split(' ').filter(Boolean);
    } catch {
      return []; // the thread has ended since
    }
  });
  return {
    files: files.sort(),
    maps: maps
      .map((line) => line.split(/ +/)[5] ?? '')
      .filter((path) => /memfd|\/ram\b|\/dev\/shm/.test(path))
      .sort(),
    threads: threads.map(() => 'a thread'),
    children: children.sort(),
    locks: readdirSync('/run/penumbra')
      .filter((name) => name.endsWith('.lock'))
      .filter((name) => isOurs(`/run/penumbra/${name}`)),
  };
}

function isOurs(lock: string): boolean {
  try {
    return readFileSync(lock, 'utf8').startsWith(`${process.pid} `);
  } catch {
    return false;
  }
}

/** What is there now and was not before, kind by kind. What ended meanwhile is nobody's concern. */
function added(before: Record<string, string[]>): Record<string, string[]> {
  return Object.fromEntries(
    Object.entries(holdings()).map(([kind, now]) => {
      const then = [...(before[kind] ?? [])];
      return [kind, now.filter((item) => (then.includes(item) ? void then.splice(then.indexOf(item), 1) : true))];
    }),
  );
}

/** Runs `work`, of which this process must hold nothing afterwards. */
export async function leavesNothing(t: Test, work: () => Promise<void>): Promise<void> {
  const before = holdings();
  await work();
  const end = performance.now() + PATIENCE_MS;
  const isClean = () => Object.values(added(before)).every((items) => items.length === 0);
  while (!isClean() && performance.now() < end) await sleep(5);
  t.same(
    Object.entries(added(before)).filter(([, items]) => items.length > 0),
    [],
    'nothing is left behind',
  );
}
