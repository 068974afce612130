import { PenumbraError } from '../errors.js';

export const LAB_KERNELS = ['5.10', '6.1', '6.12'] as const;
export const LAB_LOADS = ['idle', 'busy', 'forks'] as const;
const CPUS = ['qemu64', 'max'] as const;
export const LAB_RAM_KINDS = ['memfd', 'file', 'private', 'hugetlb', 'mixed'] as const;
const EMULATORS = ['system', 'qemu10'] as const;
const ACCELERATORS = ['tcg', 'kvm'] as const;
export const LAB_MACHINES = ['pc', 'q35', 'microvm'] as const;
const CLOCK = /^(?:utc|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)$/;
const MEMORY_MIN = 128;
const MEMORY_MAX = 16384;

/** A guest of the lab, as one asks for it. What is left out is taken from DEFAULT_SPEC. */
export interface LabSpec {
  /** Debian release line of the guest kernel (cloud flavour). */
  kernel: (typeof LAB_KERNELS)[number];
  vcpus: 1 | 2;
  /** `max` has five-level page tables, SMAP and the rest of what the accelerator can do; `qemu64` next to nothing. */
  cpu: (typeof CPUS)[number];
  memoryMiB: number;
  /** What goes on in the guest: nothing; loops in user mode and in system calls; processes that come and go. */
  load: (typeof LAB_LOADS)[number];
  /** Kernel page table isolation. */
  pti: boolean;
  kaslr: boolean;
  /**
   * What backs guest RAM: a shared memfd, a shared file, QEMU's anonymous memory, huge pages of 2 MiB that the host must
   * have set aside, or a memfd for one half and anonymous memory for the other, as two NUMA nodes.
   */
  ram: (typeof LAB_RAM_KINDS)[number];
  /** How much more memory may be plugged while it runs, in MiB. */
  growMiB: number;
  /** Size of a virtio disk with a file system mounted on /data, in MiB; 0 for none. */
  diskMiB: number;
  /** The distribution's QEMU, or QEMU 10 beside it. */
  emulator: (typeof EMULATORS)[number];
  accelerator: (typeof ACCELERATORS)[number];
  /** What the guest's hardware clock shows when it starts, as 2033-06-15T12:00:00; `utc` for the host's time. */
  clock: string;
  /** QEMU's machine type; `microvm` has no PCI, and with `tcg` one processor and no disk. */
  machine: (typeof LAB_MACHINES)[number];
}

export const DEFAULT_SPEC: Readonly<LabSpec> = {
  kernel: '6.1',
  vcpus: 1,
  cpu: 'qemu64',
  memoryMiB: 256,
  load: 'idle',
  pti: true,
  kaslr: true,
  ram: 'memfd',
  growMiB: 0,
  diskMiB: 0,
  emulator: 'system',
  clock: 'utc',
  accelerator: 'tcg',
  machine: 'pc',
};

/** Fills in the defaults. Throws BAD_ARGUMENT naming the first field that is not acceptable. */
export function completeSpec(wanted: Partial<LabSpec> = {}): LabSpec {
  const spec: LabSpec = { ...DEFAULT_SPEC, ...wanted };
  requireOneOf('kernel', spec.kernel, LAB_KERNELS);
  requireOneOf('vcpus', spec.vcpus, [1, 2]);
  requireOneOf('cpu', spec.cpu, CPUS);
  requireOneOf('load', spec.load, LAB_LOADS);
  requireOneOf('ram', spec.ram, LAB_RAM_KINDS);
  requireOneOf('emulator', spec.emulator, EMULATORS);
  requireOneOf('accelerator', spec.accelerator, ACCELERATORS);
  requireOneOf('machine', spec.machine, LAB_MACHINES);
  if (spec.machine === 'microvm' && spec.accelerator === 'tcg') requireEmulatedMicrovm(spec);
  if (!CLOCK.test(spec.clock)) {
    throw new PenumbraError('BAD_ARGUMENT', `lab guest: ${spec.clock} is no time for a clock`);
  }
  requireRange('memoryMiB', spec.memoryMiB, MEMORY_MIN, MEMORY_MAX);
  requireRange('growMiB', spec.growMiB, 0, MEMORY_MAX);
  requireRange('diskMiB', spec.diskMiB, 0, MEMORY_MAX);
  return spec;
}

/** It has no ACPI (src/lab/qemu.ts), by which Debian's kernels find a second processor and a disk without PCI. */
function requireEmulatedMicrovm({ vcpus, diskMiB }: LabSpec): void {
  requireOneOf('vcpus of an emulated microvm', vcpus, [1]);
  requireOneOf('diskMiB of an emulated microvm', diskMiB, [0]);
}

function requireOneOf(field: string, value: unknown, allowed: readonly unknown[]): void {
  if (!allowed.includes(value)) {
    throw new PenumbraError(
      'BAD_ARGUMENT',
      `lab guest: ${field} is one of ${allowed.join(', ')}, not ${String(value)}`,
    );
  }
}

function requireRange(field: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new PenumbraError('BAD_ARGUMENT', `lab guest: ${field} lies between ${least} and ${most}, not ${value}`);
  }
}
