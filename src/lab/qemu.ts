import { basename, dirname, join } from 'node:path';
import { emulatorMajor, findEmulator, type LabKernel } from './artefacts.js';
import type { LabSpec } from './spec.js';

/** Program and arguments that start a guest. */
export interface QemuCommand {
  program: string;
  arguments: string[];
}

/** What a guest has in its folder. Every socket is QEMU's and serves one client at a time. */
export interface GuestFiles {
  /** QMP monitor for penumbra. */
  qmp: string;
  /** QMP monitor for whoever checks what penumbra does. */
  truth: string;
  /** The second serial port, where /etc/lab/serve answers. */
  console: string;
  /** What the kernel prints. */
  kernelLog: string;
  /** What QEMU prints. */
  emulatorLog: string;
  /** What the guest is and which process it runs in: GuestRecord in src/lab/guest.ts. */
  record: string;
  initrd: string;
  /** Guest RAM, of a guest with `ram: 'file'`. */
  ram: string;
  disk: string;
}

export function guestFiles(folder: string): GuestFiles {
  return {
    qmp: join(folder, 'qmp.sock'),
    truth: join(folder, 'truth.sock'),
    console: join(folder, 'console.sock'),
    kernelLog: join(folder, 'kernel.log'),
    emulatorLog: join(folder, 'qemu.log'),
    record: join(folder, 'guest.json'),
    initrd: join(folder, 'initrd'),
    ram: join(folder, 'ram'),
    disk: join(folder, 'disk'),
  };
}

/** The command line for a guest, named like its folder, without a network and without any device it does not need. */
export async function qemuCommand(spec: LabSpec, kernel: LabKernel, files: GuestFiles): Promise<QemuCommand> {
  const program = findEmulator(spec.emulator);
  const major = await emulatorMajor(program);
  return {
    program,
    arguments: [
      ...['-name', basename(dirname(files.qmp))],
      ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
      ...['-accel', spec.accelerator, '-cpu', cpuModel(spec, major), '-smp', String(spec.vcpus)],
      ...['-m', memorySize(spec), ...memoryBackends(spec, files)],
      ...(spec.clock === 'utc' ? [] : ['-rtc', `base=${spec.clock}`]),
      ...['-kernel', kernel.image, '-initrd', files.initrd, '-append', kernelCommandLine(spec)],
      ...['-serial', `file:${files.kernelLog}`],
      ...['-chardev', `socket,id=console,path=${files.console},server=on,wait=off`, ...secondSerialPort(spec)],
      ...['-qmp', `unix:${files.qmp},server=on,wait=off`, '-qmp', `unix:${files.truth},server=on,wait=off`],
      ...(spec.diskMiB > 0 ? disk(spec, files) : []),
    ],
  };
}

/**
 * QEMU before 10 leaves junk in the flags after an emulated cmpxchg16b, on which kernels from 6.12 on can panic under
 * load: those get a processor without that instruction.
 */
function cpuModel(spec: LabSpec, emulator: number): string {
  const faulty = spec.accelerator === 'tcg' && emulator < 10 && spec.kernel === '6.12';
  return faulty ? `${spec.cpu},-cx16` : spec.cpu;
}

/**
 * A microvm with ACPI has no timer against which the kernel could measure the others, and it waits for ever; as a KVM
 * guest it has kvm-clock and need not measure. Without ACPI the kernel finds one processor only, and no disk.
 */
function machineType({ machine, accelerator }: LabSpec): string {
  return machine === 'microvm' && accelerator === 'tcg' ? 'microvm,acpi=off' : machine;
}

function memorySize({ memoryMiB, growMiB }: LabSpec): string {
  return growMiB === 0 ? String(memoryMiB) : `${memoryMiB}M,slots=4,maxmem=${memoryMiB + growMiB}M`;
}

/** The machine and its memory, of one backend or, as NUMA nodes, of two. */
function memoryBackends(spec: LabSpec, files: GuestFiles): string[] {
  const machine = machineType(spec);
  if (spec.ram !== 'mixed') {
    const backend = memoryBackend(spec.ram, `id=ram,size=${spec.memoryMiB}M`, files);
    return ['-object', backend, '-machine', `${machine},memory-backend=ram`];
  }
  const half = `size=${spec.memoryMiB / 2}M`;
  return [
    ...['-object', memoryBackend('memfd', `id=ram0,${half}`, files), '-numa', 'node,nodeid=0,memdev=ram0'],
    ...['-object', memoryBackend('private', `id=ram1,${half}`, files), '-numa', 'node,nodeid=1,memdev=ram1'],
    ...['-machine', machine],
  ];
}

function memoryBackend(kind: Exclude<LabSpec['ram'], 'mixed'>, idAndSize: string, files: GuestFiles): string {
  switch (kind) {
    case 'memfd':
      return `memory-backend-memfd,${idAndSize},share=on`;
    case 'file':
      return `memory-backend-file,${idAndSize},share=on,mem-path=${files.ram}`;
    case 'private':
      return `memory-backend-ram,${idAndSize}`;
    case 'hugetlb':
      return `memory-backend-memfd,${idAndSize},share=on,hugetlb=on,hugetlbsize=2M`;
  }
}

function kernelCommandLine(spec: LabSpec): string {
  return [
    'console=ttyS0 quiet panic=-1',
    // Neither is of use under emulation, and both take time at boot.
    'no_timer_check cryptomgr.notests',
    `pti=${spec.pti ? 'on' : 'off'}`,
    ...(spec.kaslr ? [] : ['nokaslr']),
    `lab.load=${spec.load}`,
  ].join(' ');
}

/** A microvm makes one port of what -serial says (hw/i386/microvm.c, microvm_devices_init). */
function secondSerialPort(spec: LabSpec): string[] {
  return spec.machine === 'microvm'
    ? ['-device', 'isa-serial,index=1,chardev=console']
    : ['-serial', 'chardev:console'];
}

function disk(spec: LabSpec, files: GuestFiles): string[] {
  const device = spec.machine === 'microvm' ? 'virtio-blk-device' : 'virtio-blk-pci';
  return ['-drive', `file=${files.disk},format=raw,if=none,id=disk`, '-device', `${device},drive=disk`];
}
