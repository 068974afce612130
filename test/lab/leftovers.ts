import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import type { Test } from 'tap';

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
  const children = threads.flatMap((id) => readFileSync(`/proc/self/task/${id}/children`, 'utf8').split(' ').filter(Boolean));
  return {
    files: files.sort(),
    maps: maps.map((line) => line.split(/ +/)[5] ?? '').filter((path) => /memfd|\/ram\b|\/dev\/shm/.test(path)).sort(),
    threads: [String(threads.length)],
    children: children.sort(),
    locks: readdirSync('/run/penumbra').filter((name) => name.endsWith('.lock')).filter((name) => isOurs(`/run/penumbra/${name}`)),
  };
}

function isOurs(lock: string): boolean {
  try {
    return readFileSync(lock, 'utf8').startsWith(`${process.pid} `);
  } catch {
    return false;
  }
}

/** Runs `work`, of which this process must hold nothing afterwards. */
export async function leavesNothing(t: Test, work: () => Promise<void>): Promise<void> {
  const before = holdings();
  await work();
  t.same(holdings(), before, 'nothing is left behind');
}
