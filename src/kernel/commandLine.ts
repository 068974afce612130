import type { Kernel } from './kernel.js';
import { rootOf } from './pageTables.js';
import { Tasks } from './tasks.js';

/** As long as the kernel lets one be (MAX_ARG_STRLEN is 128 KiB per string, the whole a quarter of the stack limit). */
const longest = 2 << 20;
const pageSize = 4096;

/**
 * The arguments of a process as they lie in its memory, NUL-separated, up to the first byte that is not in RAM;
 * undefined when there is no such process or it has no memory of its own. The guest must stand still.
 * Kernel: fs/proc/base.c, get_mm_cmdline.
 *
 * @throws PenumbraError CORRUPT, NOT_MAPPED, NO_MEMBER
 */
export function readCommandLine(kernel: Kernel, pid: number): Buffer | undefined {
  const mm = new Tasks(kernel).find(pid)?.mm;
  if (mm === undefined || mm === 0n) return undefined;
  const word = (member: string): bigint =>
    kernel.virtual.read(mm + BigInt(kernel.requireOffset(`mm_struct.${member}`)), 8).readBigUInt64LE();
  const start = word('arg_start');
  const end = word('arg_end');
  if (start >= end) return Buffer.alloc(0);
  const memory = kernel.openVirtual(rootOf(kernel, mm));
  const pieces: Buffer[] = [];
  const limit = end - start > BigInt(longest) ? start + BigInt(longest) : end;
  for (let at = start; at < limit; ) {
    const inPage = BigInt(pageSize) - (at % BigInt(pageSize));
    const length = at + inPage > limit ? limit - at : inPage;
    const piece = memory.tryRead(at, Number(length));
    if (piece === undefined) break;
    pieces.push(piece);
    at += length;
  }
  return Buffer.concat(pieces);
}
