import { PenumbraError } from '../errors.js';
import type { ShadowSource } from './moment.js';
import { readWholeFile } from './readFile.js';

/** One line of /proc/PID/maps: a range of a process's address space, whether or not it is in RAM. */
export interface MemoryMapping {
  start: bigint;
  /** behind its last byte */
  end: bigint;
  /** as the kernel prints them: r w x and p (private) or s (shared) */
  permissions: string;
  /** of `start` in the file, bytes */
  offset: bigint;
  device: { major: number; minor: number };
  inode: bigint;
  /** the file, with `\ooo` for a line feed; `[heap]`, `[stack]` and so on; empty for anonymous memory */
  path: Buffer;
}

const LINE_FEED = 0x0a;
const LINE = /^([0-9a-f]+)-([0-9a-f]+) ([r-][w-][x-][ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$/s;

/**
 * The mappings of a process, by its kernel's own account: show_map_vma() in fs/proc/task_mmu.c.
 * @throws GuestError ENOENT when there is no such process; CallError; PenumbraError CORRUPT
 */
export async function readMemoryMaps(source: ShadowSource, pid: number): Promise<MemoryMapping[]> {
  return parseMemoryMaps(await readWholeFile(source, `/proc/${pid}/maps`));
}

/** @throws PenumbraError CORRUPT with the line that no kernel writes */
export function parseMemoryMaps(bytes: Buffer): MemoryMapping[] {
  const mappings: MemoryMapping[] = [];
  for (let from = 0, to = bytes.indexOf(LINE_FEED); to >= 0; from = to + 1, to = bytes.indexOf(LINE_FEED, from)) {
    // Latin-1 keeps every byte of a path.
    const line = bytes.toString('latin1', from, to);
    const [, start, end, permissions = '', offset, major = '', minor = '', inode = '', path = ''] =
      LINE.exec(line) ?? [];
    if (start === undefined) throw new PenumbraError('CORRUPT', `/proc/PID/maps: ${JSON.stringify(line)}`);
    mappings.push({
      start: BigInt(`0x${start}`),
      end: BigInt(`0x${end}`),
      permissions,
      offset: BigInt(`0x${offset}`),
      device: { major: Number.parseInt(major, 16), minor: Number.parseInt(minor, 16) },
      inode: BigInt(inode),
      path: Buffer.from(path, 'latin1'),
    });
  }
  return mappings;
}

/** The mapping that holds an address. */
export function mappingAt(mappings: readonly MemoryMapping[], address: bigint): MemoryMapping | undefined {
  return mappings.find(({ start, end }) => address >= start && address < end);
}
