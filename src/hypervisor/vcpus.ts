import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { addon } from '../binding.js';
import { PenumbraError } from '../errors.js';
import type { VcpuHandles } from './native.js';
import type { QmpClient } from './qmp.js';
import { traceRight } from './traceRight.js';

interface CpuInfo {
  'cpu-index': number;
  'thread-id': number;
}

/** More than the watchdog takes care of: native/process/watchdog_page.h. */
const MOST_VCPUS = 256;

/**
 * The vCPUs of a KVM guest as QEMU's process has them, in the order of their numbers, for reading their registers without
 * QEMU's help. The caller closes the `fds`.
 * @returns why not, in words, where there is no such way: everything works without
 */
export async function openVcpus(qmp: QmpClient, pid: number): Promise<VcpuHandles | string> {
  let numbers: number[];
  try {
    numbers = vcpuDescriptors(pid);
  } catch {
    return untraceable(pid);
  }
  if (numbers.length === 0) return 'the guest does not run under KVM';
  if (numbers.length > MOST_VCPUS) return `the guest has more than ${MOST_VCPUS} vCPUs`;
  const cpus = await qmp.execute<CpuInfo[]>('query-cpus-fast');
  const ours = threadIds(pid);
  const threads = cpus
    .sort((a, b) => a['cpu-index'] - b['cpu-index'])
    .flatMap((cpu) => ours.get(cpu['thread-id']) ?? []);
  if (threads.length !== numbers.length || cpus.length !== numbers.length)
    return `QEMU names ${cpus.length} vCPUs, its process has ${numbers.length}`;
  try {
    return { pid, fds: addon.duplicateFds(pid, numbers), threads };
  } catch (error) {
    if (!(error instanceof PenumbraError) || error.code === 'GUEST_GONE') throw error;
    return error.code === 'PERMISSION' ? untraceable(pid) : error.message;
  }
}

function untraceable(pid: number): string {
  return `user ${process.geteuid?.()} may not trace QEMU's process ${pid}, which is the faster way (${traceRight()})`;
}

/** The kernel calls a vCPU's descriptor "kvm-vcpu:" and its number (virt/kvm/kvm_main.c, create_vcpu_fd). */
function vcpuDescriptors(pid: number): number[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder)
    .flatMap((name) => {
      const vcpu = /^anon_inode:kvm-vcpu:(\d+)$/.exec(linkOf(`${folder}/${name}`))?.[1];
      return vcpu === undefined ? [] : { vcpu: Number(vcpu), fd: Number(name) };
    })
    .sort((a, b) => a.vcpu - b.vcpu)
    .map(({ fd }) => fd);
}

/** Threads by their ids in QEMU's pid namespace, which are the ones that QEMU knows; proc_pid_status(5), NSpid. */
function threadIds(pid: number): Map<number, number> {
  const folder = `/proc/${pid}/task`;
  return new Map(
    readdirSync(folder).map((name) => {
      const status = readFileSync(`${folder}/${name}/status`, 'utf8');
      const ids = /^NSpid:\s+(.*)$/m.exec(status)?.[1]?.split(/\s+/) ?? [name];
      return [Number(ids.at(-1)), Number(name)];
    }),
  );
}

/** Empty where the descriptor was closed meanwhile. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
