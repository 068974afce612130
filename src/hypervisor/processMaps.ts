import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { PenumbraError } from '../errors.js';
import { commandOf } from './qemuProcess.js';
import { LOOK_RIGHT } from './traceRight.js';

/** One line of /proc/PID/maps. */
export interface Mapping {
  start: bigint;
  end: bigint;
  shared: boolean;
  /** of `start` in the file, bytes */
  offset: bigint;
  /** major:minor in hexadecimal, as the kernel prints it */
  device: string;
  inode: bigint;
  /** empty for anonymous memory */
  path: string;
}

/**
 * What a process has mapped.
 * @throws PenumbraError PERMISSION naming the right that is missing, GUEST_GONE
 */
export function readMappings(pid: number): Mapping[] {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/maps`, 'utf8');
  } catch (cause) {
    throw accessError(pid, 'what it has mapped', cause);
  }
  return text.split('\n').flatMap((line) => {
    const match = /^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)$/.exec(line);
    if (!match) return [];
    const [, start, end, rights, offset, device, inode, path] = match;
    return [
      {
        start: BigInt(`0x${start}`),
        end: BigInt(`0x${end}`),
        shared: rights?.[3] === 's',
        offset: BigInt(`0x${offset}`),
        device: device ?? '',
        inode: BigInt(inode ?? '0'),
        path: path ?? '',
      },
    ];
  });
}

/**
 * The mappings that hold [from, to) without a gap, all of one file (or all anonymous) and in the order of that file. The
 * kernel may show one mmap as several.
 */
export function mappingsOf(mappings: readonly Mapping[], from: bigint, to: bigint): Mapping[] | undefined {
  const inside = mappings.filter((mapping) => mapping.start < to && mapping.end > from);
  const first = inside[0];
  if (!first || first.start > from) return undefined;
  let end = first.start;
  for (const mapping of inside) {
    const isNext =
      mapping.start === end &&
      mapping.shared === first.shared &&
      mapping.inode === first.inode &&
      mapping.device === first.device;
    const inOrder = mapping.inode === 0n || mapping.offset - first.offset === mapping.start - first.start;
    if (!isNext || !inOrder) return undefined;
    end = mapping.end;
  }
  return end >= to ? inside : undefined;
}

/** linux/magic.h */
const HUGETLBFS_MAGIC = 0x958458f6;
/** asm-generic/fcntl.h; Node sets it anyway and does not name it. */
const O_CLOEXEC = 0o2000000;

/** Whether the file behind a mapping consists of huge pages; false where that cannot be asked. */
export function isHugetlb(pid: number, mapping: Mapping): boolean {
  return backingPaths(pid, mapping).some((path) => {
    try {
      return statfsSync(path).type === HUGETLBFS_MAGIC;
    } catch {
      return false;
    }
  });
}

/**
 * Opens the file behind a mapping for reading: through the process's own descriptor of it, then /proc/PID/map_files, then
 * by its path; each time it must be the very file that is mapped.
 * @returns a file descriptor, to be closed by the caller
 * @throws PenumbraError PERMISSION naming the right that is missing
 */
export function openBacking(pid: number, mapping: Mapping): number {
  let refused: unknown;
  for (const path of backingPaths(pid, mapping)) {
    try {
      const fd = openSync(path, constants.O_RDONLY | O_CLOEXEC);
      if (isSameFile(fstatSync(fd, { bigint: true }), mapping)) return fd;
      closeSync(fd);
    } catch (cause) {
      refused ??= cause;
    }
  }
  throw accessError(pid, `the file behind its memory (${mapping.path || 'anonymous'})`, refused);
}

function backingPaths(pid: number, mapping: Mapping): string[] {
  const range = `${mapping.start.toString(16)}-${mapping.end.toString(16)}`;
  const named = mapping.path.startsWith('/') ? [`/proc/${pid}/root${mapping.path}`] : [];
  return [...descriptorsOf(pid, mapping), `/proc/${pid}/map_files/${range}`, ...named];
}

function descriptorsOf(pid: number, mapping: Mapping): string[] {
  const folder = `/proc/${pid}/fd`;
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return [];
  }
  return names
    .map((name) => `${folder}/${name}`)
    .filter((path) => {
      try {
        // readlink first: stat of some descriptors (a hung network file system) could block.
        return readlinkSync(path) === mapping.path && isSameFile(statSync(path, { bigint: true }), mapping);
      } catch {
        return false;
      }
    });
}

/**
 * The inode decides; the device is compared where the file system shows the same one to stat(2) and in maps (btrfs and
 * overlayfs do not: there the minor number differs while the name of the mapping is the same).
 */
function isSameFile(status: { dev: bigint; ino: bigint }, mapping: Mapping): boolean {
  if (status.ino !== mapping.inode) return false;
  const [major, minor] = mapping.device.split(':').map((part) => BigInt(`0x${part}`));
  return majorOf(status.dev) === major && (minorOf(status.dev) === minor || major === 0n);
}

// The layout of dev_t in glibc's sys/sysmacros.h.
function majorOf(dev: bigint): bigint {
  return ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & 0xfffff000n);
}

function minorOf(dev: bigint): bigint {
  return (dev & 0xffn) | ((dev >> 12n) & 0xffffff00n);
}

function accessError(pid: number, what: string, cause: unknown): PenumbraError {
  const code = (cause as NodeJS.ErrnoException | undefined)?.code;
  if (code === 'ENOENT' || code === 'ESRCH') return new PenumbraError('GUEST_GONE', `process ${pid} ended`, { cause });
  return new PenumbraError(
    'PERMISSION',
    `user ${process.geteuid?.()} may not see ${what} of process ${pid} (${commandOf(pid)}): the right to trace it is ` +
      `missing (${LOOK_RIGHT}; what runs as the same user may be traced if it is dumpable). Without that right: ` +
      "'penumbra guests'",
    { cause },
  );
}
