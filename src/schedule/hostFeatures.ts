import type { Kernel } from '../kernel/kernel.js';
import type { VcpuState } from '../target/target.js';

/**
 * What a guest's processor has and a virtual machine of this host's KVM could not give to the guest's kernel. A kernel
 * decides at boot which instructions it uses; run elsewhere it must find them all.
 */

/** A bit of CPUID: Intel SDM volume 2A. `register` counts eax, ebx, ecx, edx. */
interface Feature {
  name: string;
  leaf: number;
  register: 0 | 1 | 2 | 3;
  bit: number;
}

const ebx = 1;
const ecx = 2;
const edx = 3;
const basic = 1;
const structured = 7;
const extended = 0x80000001;

/** Features that bits of CR4 switch on: Intel SDM volume 3, section 2.5. */
const byControlBit: readonly (Feature & { cr4: number })[] = [
  { cr4: 11, name: 'umip', leaf: structured, register: ecx, bit: 2 },
  { cr4: 12, name: 'la57', leaf: structured, register: ecx, bit: 16 },
  { cr4: 16, name: 'fsgsbase', leaf: structured, register: ebx, bit: 0 },
  { cr4: 17, name: 'pcid', leaf: basic, register: ecx, bit: 17 },
  { cr4: 18, name: 'xsave', leaf: basic, register: ecx, bit: 26 },
  { cr4: 20, name: 'smep', leaf: structured, register: ebx, bit: 7 },
  { cr4: 21, name: 'smap', leaf: structured, register: ebx, bit: 20 },
  { cr4: 22, name: 'pku', leaf: structured, register: ecx, bit: 3 },
];

/** Instructions that the kernel uses wherever there are any, by their word in x86_capability (asm/cpufeatures.h). */
const byInstruction: readonly (Feature & { word: number })[] = [
  { word: 1, name: 'nx', leaf: extended, register: edx, bit: 20 },
  { word: 1, name: 'pdpe1gb', leaf: extended, register: edx, bit: 26 },
  { word: 1, name: 'rdtscp', leaf: extended, register: edx, bit: 27 },
  { word: 4, name: 'cx16', leaf: basic, register: ecx, bit: 13 },
  { word: 4, name: 'popcnt', leaf: basic, register: ecx, bit: 23 },
  { word: 4, name: 'rdrand', leaf: basic, register: ecx, bit: 30 },
  { word: 9, name: 'invpcid', leaf: structured, register: ebx, bit: 10 },
  { word: 9, name: 'rdseed', leaf: structured, register: ebx, bit: 18 },
  { word: 9, name: 'clflushopt', leaf: structured, register: ebx, bit: 23 },
  { word: 9, name: 'clwb', leaf: structured, register: ebx, bit: 24 },
  { word: 16, name: 'waitpkg', leaf: structured, register: ecx, bit: 5 },
  { word: 16, name: 'rdpid', leaf: structured, register: ecx, bit: 22 },
  { word: 18, name: 'serialize', leaf: structured, register: edx, bit: 14 },
];

const capabilityWords = 19;
const addressSizeLeaf = 0x80000008;
const leafWords = 6;

/** Names, as /proc/cpuinfo has them, of what the guest uses and `cpuid` (six words per leaf) lacks. */
export function missingFeatures(kernel: Kernel, vcpus: readonly VcpuState[], cpuid: Uint32Array): string[] {
  const cr4 = vcpus.reduce((bits, vcpu) => bits | vcpu.cr4, 0n);
  const words = capabilities(kernel);
  const used = [
    ...byControlBit.filter((feature) => (cr4 >> BigInt(feature.cr4)) & 1n),
    ...byInstruction.filter((feature) => ((words[feature.word] ?? 0) >>> feature.bit) & 1),
  ];
  return used.filter((feature) => !has(cpuid, feature)).map((feature) => feature.name);
}

/** Bits of a guest-physical address that a virtual machine can have. */
export function addressBits(cpuid: Uint32Array): number {
  const leaf = find(cpuid, addressSizeLeaf);
  return leaf === undefined ? 36 : (leaf[2] as number) & 0xff;
}

/** What the kernel found at boot; nothing when it cannot be told. */
function capabilities(kernel: Kernel): Uint32Array {
  const data = kernel.symbol('boot_cpu_data');
  const offset = kernel.offsetof('cpuinfo_x86.x86_capability');
  if (data === undefined || offset === undefined) return new Uint32Array();
  const bytes = kernel.virtual.read(data + BigInt(offset), capabilityWords * 4);
  return Uint32Array.from({ length: capabilityWords }, (_, word) => bytes.readUInt32LE(word * 4));
}

function has(cpuid: Uint32Array, { leaf, register, bit }: Feature): boolean {
  const found = find(cpuid, leaf);
  return found !== undefined && (((found[2 + register] as number) >>> bit) & 1) === 1;
}

/** The first subleaf. */
function find(cpuid: Uint32Array, leaf: number): Uint32Array | undefined {
  for (let at = 0; at < cpuid.length; at += leafWords) {
    if (cpuid[at] === leaf && cpuid[at + 1] === 0) return cpuid.subarray(at, at + leafWords);
  }
  return undefined;
}
