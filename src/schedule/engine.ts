import { addon } from '../binding.js';
import { PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import type { SessionEngine } from '../shadow/session.js';
import type { VcpuState } from '../target/target.js';
import { addressBits, missingFeatures } from './hostFeatures.js';
import { kvmSpeed } from './kvmSpeed.js';

export type EngineName = 'auto' | 'kvm' | 'unicorn' | 'qemu';

/** An engine, and why it was taken: a sentence without its capital and its full stop. */
export interface EngineChoice extends SessionEngine {
  reason: string;
}

/** What the choice depends on. */
export interface EngineNeeds {
  kernel: Kernel;
  vcpus: readonly VcpuState[];
  /** first guest-physical address that the shadow does not use */
  topOfMemory: bigint;
  /** instructions that a call may take; 0 for any number */
  instructionLimit: number;
}

/**
 * Below this share of the processor's own speed there is no hardware behind KVM. With hardware it is about 1; a KVM
 * that emulates privileged code gets to a thousandth, and Unicorn to a tenth.
 */
const leastShare = 1 / 20;

const asked = 'asked for';

/**
 * Which engine serves a guest.
 * @param device path of KVM's device
 * @throws PenumbraError UNSUPPORTED, PERMISSION when a certain engine is wanted and cannot be had
 */
export async function chooseEngine(wanted: EngineName, needs: EngineNeeds, device = '/dev/kvm'): Promise<EngineChoice> {
  switch (wanted) {
    case 'unicorn':
      return { name: 'unicorn', device, reason: asked };
    case 'kvm':
      requireNoLimit(needs);
      requireFit(needs, device);
      return { name: 'kvm', device, reason: asked };
    case 'auto':
      return chooseBySpeed(needs, device);
    case 'qemu':
      throw new PenumbraError('UNSUPPORTED', 'the engine qemu is not there yet (take kvm or unicorn)');
  }
}

/**
 * Makes something with the engine chosen. When KVM fails at it after all and no certain engine was wanted, Unicorn takes
 * its place.
 */
export async function withEngine<Result>(
  wanted: EngineName,
  choice: EngineChoice,
  make: (engine: EngineChoice) => Promise<Result>,
): Promise<{ engine: EngineChoice; result: Result }> {
  try {
    return { engine: choice, result: await make(choice) };
  } catch (error) {
    if (wanted !== 'auto' || choice.name !== 'kvm' || !isKvmFailure(error)) throw error;
    const engine: EngineChoice = { ...choice, name: 'unicorn', reason: error.message };
    return { engine, result: await make(engine) };
  }
}

/** Speed comes first: what the guest needs takes longer to find out. */
async function chooseBySpeed(needs: EngineNeeds, device: string): Promise<EngineChoice> {
  try {
    requireNoLimit(needs);
    const { guestRate, hostRate } = await kvmSpeed(device);
    const share = guestRate / hostRate;
    if (share < leastShare) {
      const million = (guestRate / 1e6).toFixed(1);
      const reason = `${device} has no hardware behind it (${million} million instructions per second)`;
      return { name: 'unicorn', device, reason };
    }
    requireFit(needs, device);
    return { name: 'kvm', device, reason: `${device} runs code at ${percent(share)} of the processor's speed` };
  } catch (error) {
    if (!isKvmFailure(error)) throw error;
    return { name: 'unicorn', device, reason: error.message };
  }
}

function requireNoLimit({ instructionLimit }: EngineNeeds): void {
  if (instructionLimit === 0) return;
  throw new PenumbraError('UNSUPPORTED', 'KVM counts no instructions, and a limit to them was set');
}

/** @throws PenumbraError UNSUPPORTED, PERMISSION saying why KVM cannot run this guest's code */
function requireFit(needs: EngineNeeds, device: string): void {
  const cpuid = addon.kvmCpuid(device);
  const missing = missingFeatures(needs.kernel, needs.vcpus, cpuid);
  if (missing.length > 0) {
    throw new PenumbraError(
      'UNSUPPORTED',
      `KVM on this host lacks what the guest's processor has: ${missing.join(', ')}`,
    );
  }
  const bits = addressBits(cpuid);
  if (needs.topOfMemory > 1n << BigInt(bits)) {
    throw new PenumbraError('UNSUPPORTED', `KVM on this host addresses ${bits} bits of memory, and the guest has more`);
  }
}

function isKvmFailure(error: unknown): error is PenumbraError {
  return error instanceof PenumbraError && ['UNSUPPORTED', 'PERMISSION', 'ENGINE'].includes(error.code);
}

function percent(share: number): string {
  return `${Math.min(100, Math.round(share * 100))} %`;
}
