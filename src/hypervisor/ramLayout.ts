import { closeSync, constants, openSync } from 'node:fs';
import { PenumbraError } from '../errors.js';
import type { RamRegion } from '../target/target.js';
import { type FlatSection, parseFlatView } from './flatView.js';
import { isHugetlb, type Mapping, mappingsOf, openBacking, readMappings } from './processMaps.js';
import type { QmpClient } from './qmp.js';
import { traceRight } from './traceRight.js';

export type RegionKind =
  | 'shared-memfd'
  | 'shared-file'
  | 'shared-anonymous'
  | 'private-file'
  | 'private-anonymous'
  | 'hugetlb';

/** A stretch of guest RAM, contiguous in guest-physical memory and in QEMU's address space. */
export interface RamLayoutRegion {
  gpa: bigint;
  /** bytes */
  size: bigint;
  /** in QEMU's address space */
  hva: bigint;
  kind: RegionKind;
  /** of the region's first byte in the file behind it */
  offset: bigint;
  /** the memory backend, as QEMU calls it */
  name: string;
  /** the mapping that holds its first byte, and with it the file */
  mapping: Mapping;
}

/** QEMU may lay firmware and the VGA window over RAM below 1 MiB: so much may be missing from the RAM it is told to have. */
const OVERLAID = 1n << 20n;

interface Memdev {
  id?: string;
  size: number;
}
interface MemorySummary {
  'base-memory': number;
  'plugged-memory'?: number;
}
interface MemoryDevice {
  type: string;
  data: { memdev?: string; size?: number; 'max-size'?: number };
}

/**
 * Where guest RAM lies, by QEMU's own account: the flat view of the vCPUs' address space gives the sections, gpa2hva the
 * host address of both ends of each, /proc/PID/maps the file behind it.
 * @throws PenumbraError UNSUPPORTED when QEMU's accounts contradict each other, PERMISSION, GUEST_GONE
 */
export async function readRamLayout(qmp: QmpClient, pid: number): Promise<RamLayoutRegion[]> {
  const [view, memdevs, summary, devices, base] = await Promise.all([
    qmp.hmp('info mtree -f'),
    qmp.execute<Memdev[]>('query-memdev'),
    qmp.execute<MemorySummary>('query-memory-size-summary'),
    qmp.execute<MemoryDevice[]>('query-memory-devices'),
    // QEMU before 5.0 has no such property; a NUMA guest has an empty one.
    qmp.execute<string>('qom-get', { path: '/machine', property: 'memory-backend' }).catch(() => ''),
  ]);
  const plugged = devices.flatMap((device) => lastPart(device.data.memdev ?? '') || []);
  const backends = ramBackends(memdevs, plugged, lastPart(base));
  const runs = joinSections(parseFlatView(view).filter((section) => isRam(section, backends)));
  checkTotal(runs, summary, devices);
  const addresses = await Promise.all(runs.map((run) => hostAddress(qmp, run)));
  const mappings = readMappings(pid);
  return runs.map((run, index) => locate(pid, run, addresses[index] ?? 0n, mappings));
}

/**
 * Opens what guest RAM is read from: the file behind it where it is shared, otherwise the memory of QEMU's process.
 * @returns regions whose `fd` may be used until `close`
 * @throws PenumbraError PERMISSION naming the right that is missing, GUEST_GONE
 */
export function openRam(pid: number, layout: readonly RamLayoutRegion[]): { regions: RamRegion[]; close(): void } {
  const open = new Map<string, number>();
  const close = (): void => {
    for (const fd of open.values()) closeSync(fd);
    open.clear();
  };
  const once = (name: string, openIt: () => number): number => {
    const fd = open.get(name) ?? openIt();
    open.set(name, fd);
    return fd;
  };
  try {
    const regions = layout.map((region) => mapped(pid, region, once) ?? foreign(pid, region, once));
    return { regions, close };
  } catch (error) {
    close();
    throw error;
  }
}

type OpenOnce = (name: string, open: () => number) => number;

/** undefined where the region is private to QEMU, or its file cannot be opened. */
function mapped(
  pid: number,
  { gpa, size, offset, name, kind, mapping }: RamLayoutRegion,
  once: OpenOnce,
): RamRegion | undefined {
  if (!mapping.shared) return undefined;
  try {
    const fd = once(`${mapping.device} ${mapping.inode}`, () => openBacking(pid, mapping));
    // A private mapping of huge pages would copy 2 MiB, from a pool that is rarely that large, for each page touched.
    return { gpa, size, offset, name, fd, process: undefined, copied: kind === 'hugetlb', sparse: true };
  } catch (error) {
    if (error instanceof PenumbraError && error.code === 'PERMISSION') return undefined;
    throw error;
  }
}

function foreign(pid: number, { gpa, size, hva, name, kind }: RamLayoutRegion, once: OpenOnce): RamRegion {
  const fd = once('memory', () => openMemory(pid, name, kind));
  return { gpa, size, offset: hva, name, fd, process: pid, copied: true, sparse: kind === 'private-anonymous' };
}

/** Asks for the right to read the memory of a process once; what it is bound to is the process, not the pid. */
function openMemory(pid: number, name: string, kind: RegionKind): number {
  try {
    return openSync(`/proc/${pid}/mem`, constants.O_RDONLY);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH') throw new PenumbraError('GUEST_GONE', `process ${pid} ended`, { cause });
    throw new PenumbraError(
      'PERMISSION',
      `guest RAM ${name} is ${kind}, so it is read through QEMU's process ${pid}, and user ${process.geteuid?.()} may not ` +
        `read the memory of that process: ${traceRight()}. ` +
        "Without that right: 'penumbra guests', and everything for a guest with shared RAM (" +
        '-object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram; ' +
        "libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>)",
      { cause },
    );
  }
}

/** Whether two accounts of a guest's RAM say the same. */
export function isSameLayout(a: readonly RamLayoutRegion[], b: readonly RamLayoutRegion[]): boolean {
  return a.map(identity).join() === b.map(identity).join();
}

function identity({ gpa, size, hva, offset, mapping }: RamLayoutRegion): string {
  return [gpa, size, hva, offset, mapping.device, mapping.inode].join(' ');
}

function lastPart(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/**
 * The backends that are RAM: the machine's own (all that are not plugged, in a NUMA guest) and those of DIMMs. The memory
 * of an ivshmem device is a backend too, but no RAM.
 */
function ramBackends(memdevs: Memdev[], plugged: string[], base: string): Set<string> {
  const all = memdevs.flatMap((memdev) => memdev.id ?? []);
  return new Set(base === '' ? all : [base, ...plugged]);
}

function isRam(section: FlatSection, backends: Set<string>): boolean {
  // Read-only sections of a backend are RAM that the chipset write-protects for now (PAM registers).
  return (section.kind === 'ram' || section.kind === 'rom') && backends.has(lastPart(section.name));
}

function joinSections(sections: FlatSection[]): FlatSection[] {
  const runs: FlatSection[] = [];
  for (const section of sections) {
    const last = runs.at(-1);
    const continues =
      last !== undefined &&
      last.name === section.name &&
      last.gpa + last.size === section.gpa &&
      last.offset + last.size === section.offset;
    if (continues) last.size += section.size;
    else runs.push({ ...section });
  }
  return runs;
}

function checkTotal(runs: FlatSection[], summary: MemorySummary, devices: MemoryDevice[]): void {
  const found = runs.reduce((sum, run) => sum + run.size, 0n);
  // A virtio-mem device shows all it may ever give, and counts what it gives now.
  const withheld = devices.reduce((sum, { data }) => sum + (data['max-size'] ?? data.size ?? 0) - (data.size ?? 0), 0);
  const told = BigInt(withheld) + BigInt(summary['base-memory']) + BigInt(summary['plugged-memory'] ?? 0);
  if (found > told || told - found > OVERLAID) {
    throw new PenumbraError(
      'UNSUPPORTED',
      `QEMU has ${told} bytes of RAM, but its memory map shows ${found} (${runs.map((run) => run.name).join(', ')})`,
    );
  }
}

async function hostAddress(qmp: QmpClient, run: FlatSection): Promise<bigint> {
  const [first, last] = await Promise.all([gpa2hva(qmp, run.gpa), gpa2hva(qmp, run.gpa + run.size - 1n)]);
  if (last - first !== run.size - 1n) {
    throw new PenumbraError('UNSUPPORTED', `RAM ${run.name} is not contiguous in QEMU's address space`, {
      address: run.gpa,
    });
  }
  return first;
}

async function gpa2hva(qmp: QmpClient, gpa: bigint): Promise<bigint> {
  const answer = await qmp.hmp(`gpa2hva 0x${gpa.toString(16)}`);
  const address = /\bis (0x[0-9a-f]+)\s*$/.exec(answer)?.[1];
  if (address === undefined)
    throw new PenumbraError('UNSUPPORTED', `QEMU does not say where RAM is: ${answer.trim()}`, { address: gpa });
  return BigInt(address);
}

function locate(pid: number, run: FlatSection, hva: bigint, mappings: Mapping[]): RamLayoutRegion {
  const holding = mappingsOf(mappings, hva, hva + run.size);
  const mapping = holding?.[0];
  if (!mapping) {
    throw new PenumbraError(
      'NOT_QEMU',
      `the process has no memory where QEMU says that RAM ${run.name} is (another process answers on the QMP socket)`,
      { address: run.gpa },
    );
  }
  const offset = mapping.inode === 0n ? 0n : mapping.offset + (hva - mapping.start);
  return { gpa: run.gpa, size: run.size, hva, kind: kindOf(pid, mapping), offset, name: run.name, mapping };
}

function kindOf(pid: number, mapping: Mapping): RegionKind {
  const path = mapping.path.replace(/ \(deleted\)$/, '');
  const anonymous = mapping.inode === 0n || path === '/dev/zero';
  if (anonymous) return mapping.shared ? 'shared-anonymous' : 'private-anonymous';
  if (isHugetlb(pid, mapping)) return 'hugetlb';
  if (!mapping.shared) return 'private-file';
  return path.startsWith('/memfd:') ? 'shared-memfd' : 'shared-file';
}
