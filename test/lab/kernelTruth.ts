import type { VcpuState } from '../../src/target/target.js';
import type { TestGuest } from './driver.js';
import { vcpu } from './kernelImage.js';

/** A symbol as a line of /proc/kallsyms, without its module. */
export function kallsymsLine({ address, type, name }: { address: bigint; type: string; name: string }): string {
  return `${address.toString(16).padStart(16, '0')} ${type} ${name}`;
}

/** The registers that tell where the kernel is, as QEMU prints them. */
export async function vcpusOf(guest: TestGuest): Promise<VcpuState[]> {
  const states: VcpuState[] = [];
  for (let index = 0; index < guest.spec.vcpus; index++) {
    const registers = await guest.registers(index);
    const value = (name: string) => registers.get(name)!;
    states.push(vcpu(value('cr3'), { index, cr0: value('cr0'), cr4: value('cr4'), efer: value('efer') }));
  }
  return states;
}

/** A processor that needs no isolation does not get it, whatever the command line says by default. */
export async function usesIsolation(guest: TestGuest): Promise<boolean> {
  return (await guest.run('grep -qw pti /proc/cpuinfo')).status === 0;
}

/** One /proc/PID/status. */
export function parseStatus(text: string) {
  const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(text)![1]!;
  const [uid, euid] = field('Uid').split('\t').map(Number);
  const ids = {
    pid: Number(field('Tgid')),
    ppid: Number(field('PPid')),
    uid,
    euid,
    gid: Number(field('Gid').split('\t')[0]),
  };
  return { name: field('Name'), state: field('State')[0]!, pid: Number(field('Pid')), ids };
}
