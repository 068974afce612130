import { closeSync } from 'node:fs';
import { PenumbraError } from '../errors.js';
import type { RamRegion } from '../target/target.js';
import { type FlatSection, parseFlatView } from './flatView.js';
import { isHugetlb, type Mapping, mappingsOf, openBacking, readMappings } from './processMaps.js';
import type { QmpClient } from './qmp.js';

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
 * Opens the files behind guest RAM, each once.
 * @returns regions whose `fd` may be used until `close`
 * @throws PenumbraError NO_SHARED_RAM saying how to start QEMU, PERMISSION
 */
export function openRam(pid: number, layout: readonly RamLayoutRegion[]): { regions: RamRegion[]; close(): void } {
  const unshared = layout.find((region) => !region.mapping.shared);
  if (unshared) throw noSharedRam(unshared);
  const open = new Map<string, number>();
  const close = (): void => {
    for (const fd of open.values()) closeSync(fd);
    open.clear();
  };
  try {
    const regions = layout.map(({ gpa, size, offset, name, mapping }) => {
      const file = `${mapping.device} ${mapping.inode}`;
      const fd = open.get(file) ?? openBacking(pid, mapping);
      open.set(file, fd);
      return { gpa, size, offset, name, fd };
    });
    return { regions, close };
  } catch (error) {
    close();
    throw error;
  }
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
  if (!mapping.shared) return 'private-file';
  if (isHugetlb(pid, mapping)) return 'hugetlb';
  return path.startsWith('/memfd:') ? 'shared-memfd' : 'shared-file';
}

function noSharedRam(region: RamLayoutRegion): PenumbraError {
  return new PenumbraError(
    'NO_SHARED_RAM',
    `guest RAM ${region.name} is ${region.kind}, so that no other process can map it: start QEMU with ` +
      '-object memory-backend-memfd,id=ram,size=SIZE,share=on -machine memory-backend=ram ' +
      "(libvirt: <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>)",
  );
}
