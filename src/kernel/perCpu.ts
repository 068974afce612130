import { PenumbraError } from '../errors.js';
import type { Kernel } from './kernel.js';

/** CONFIG_NR_CPUS is at most 8192 on x86-64: arch/x86/Kconfig, NR_CPUS_RANGE_END. */
const CPU_LIMIT = 8192;

/** CPU numbers of the guest, in order. `possible` ones have a per-CPU area, `online` ones run. */
export function possibleCpus(kernel: Kernel): number[] {
  return cpusIn(kernel, '__cpu_possible_mask');
}

export function onlineCpus(kernel: Kernel): number[] {
  return cpusIn(kernel, '__cpu_online_mask');
}

/** include/linux/cpumask.h; the masks are variables of these names since 4.5. */
function cpusIn(kernel: Kernel, mask: string): number[] {
  const address = kernel.requireSymbol(mask);
  const bytes = kernel.virtual.read(address, Math.min(kernel.requireSize('cpumask'), CPU_LIMIT / 8));
  const cpus: number[] = [];
  for (let cpu = 0; cpu < bytes.length * 8; cpu++) {
    if ((bytes[cpu >> 3]! >> (cpu & 7)) & 1) cpus.push(cpu);
  }
  if (cpus.length === 0) throw new PenumbraError('CORRUPT', `${mask} names no CPU`, { address });
  return cpus;
}

/**
 * What has to be added to a per-CPU symbol to get its address on a CPU. Also the GS base of that CPU in the kernel:
 * arch/x86/kernel/setup_percpu.c.
 *
 * @throws PenumbraError BAD_ARGUMENT for a CPU that cannot exist, CORRUPT
 */
export function perCpuBase(kernel: Kernel, cpu: number): bigint {
  if (!Number.isInteger(cpu) || cpu < 0 || cpu >= CPU_LIMIT) {
    throw new PenumbraError('BAD_ARGUMENT', `CPU ${cpu} cannot exist`);
  }
  const table = kernel.symbol('__per_cpu_offset');
  if (table === undefined) {
    // a kernel without CONFIG_SMP has ordinary variables
    if (cpu === 0) return 0n;
    throw new PenumbraError('BAD_ARGUMENT', `CPU ${cpu} cannot exist in a kernel without SMP`);
  }
  return kernel.virtual.read(table + 8n * BigInt(cpu), 8).readBigUInt64LE();
}

/** The variables that say what a CPU is doing, as per-CPU symbols: add `perCpuBase` or the CPU's GS base. */
export interface CurrentVariables {
  /** struct task_struct *: the task that runs */
  currentTask: bigint;
  /** unsigned long: top of its kernel stack */
  topOfStack: bigint;
  /** int: preemption, softirq and hardirq depth; bit 31 inverted need_resched */
  preemptCount: bigint;
}

/** @throws PenumbraError NO_SYMBOL, NO_MEMBER, NO_BTF */
export function currentVariables(kernel: Kernel): CurrentVariables {
  return {
    currentTask: currentTaskVariable(kernel),
    topOfStack: hotMember(kernel, 'top_of_stack') ?? topOfStack(kernel),
    preemptCount: hotMember(kernel, 'preempt_count') ?? kernel.requireSymbol('__preempt_count'),
  };
}

function currentTaskVariable(kernel: Kernel): bigint {
  return hotMember(kernel, 'current_task') ?? kernel.requireSymbol('current_task');
}

/** 6.2 to 6.14, e57ef2ed97c1: one cache line for all of them; variables of their own again since 6.15, and up to 6.1. */
function hotMember(kernel: Kernel, member: string): bigint | undefined {
  const hot = kernel.symbol('pcpu_hot');
  return hot === undefined ? undefined : hot + BigInt(kernel.requireOffset(`pcpu_hot.${member}`));
}

function topOfStack(kernel: Kernel): bigint {
  // 5.13, 1591584e2e76; before, it is the otherwise unused sp1 of the TSS: arch/x86/include/asm/processor.h
  const variable = kernel.symbol('cpu_current_top_of_stack');
  if (variable !== undefined) return variable;
  return kernel.requireSymbol('cpu_tss_rw') + BigInt(kernel.requireOffset('tss_struct.x86_tss.sp1'));
}

/** Address of the task_struct that runs on a CPU. @throws PenumbraError NO_SYMBOL, NOT_MAPPED */
export function currentTask(kernel: Kernel, cpu: number): bigint {
  const at = BigInt.asUintN(64, currentTaskVariable(kernel) + perCpuBase(kernel, cpu));
  return kernel.virtual.read(at, 8).readBigUInt64LE();
}
