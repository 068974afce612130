import { PenumbraError } from '../errors.js';
import type { PhysicalMemory, VcpuState } from '../target/target.js';
import { findBanner, releaseOf } from './banner.js';
import { Btf } from './btf.js';
import { BtfTypes } from './btfTypes.js';
import { DescriptionCache } from './cache.js';
import { type Description, digestBtf, digestKallsyms, digestsAt, noAnswers } from './description.js';
import { type Described, GuestKernel } from './guestKernel.js';
import type { KernelImage } from './image.js';
import { type FoundKallsyms, findKallsyms, readSpan } from './kallsyms.js';
import type { Kernel, Step } from './kernel.js';
import { locateImage, type OpenVirtual } from './locate.js';
import { locateBtf } from './locateBtf.js';

export interface RecogniseOptions {
  /** where kernels are remembered; the user's cache unless given */
  cache?: DescriptionCache;
}

/**
 * Finds the Linux kernel of a target and makes it answer for its symbols and types, from guest RAM and registers alone.
 *
 * A kernel met before costs a hash of its tables; otherwise they are found and decoded.
 *
 * @param openVirtual gives guest memory through a page table root
 * @throws PenumbraError NO_KERNEL, NO_KALLSYMS, CORRUPT. A kernel without BTF is recognised; questions about types fail.
 */
export function recogniseKernel(
  memory: PhysicalMemory,
  openVirtual: OpenVirtual,
  vcpus: readonly VcpuState[],
  { cache = new DescriptionCache() }: RecogniseOptions = {},
): Kernel {
  const steps: Step[] = [];
  const image = timed(steps, 'locate', () => locateImage(memory, openVirtual, vcpus));
  const known = timed(steps, 'recall', () => recall(image, cache));
  const described = known ?? describe(image, steps);
  const kernel = timed(steps, 'read', () => new GuestKernel(image, openVirtual, described, cache, steps));
  timed(steps, 'remember', () => kernel.remember());
  return kernel;
}

/** The description of this very kernel, if one was kept: its digests are those of the guest's own bytes. */
function recall(image: KernelImage, cache: DescriptionCache): Described | undefined {
  for (const description of cache.descriptions()) {
    try {
      if (!resembles(image, description)) continue;
      const { kallsyms, btf } = digestsAt(image, description);
      if (kallsyms !== description.digests.kallsyms || btf !== description.digests.btf) continue;
      cache.touch(description);
      return { description };
    } catch (cause) {
      // another kernel, smaller than the described one
      if (!(cause instanceof PenumbraError && cause.code === 'NOT_MAPPED')) throw cause;
    }
  }
  return undefined;
}

/** A cheap look before megabytes are hashed: the token table ends right before its padding and index begin. */
function resembles(image: KernelImage, { kallsyms }: Description): boolean {
  const { tokenIndex, tokenTable } = kallsyms;
  const index = readSpan(image, tokenIndex);
  if (index.length !== 512 || index.readUInt16LE(0) !== 0) return false;
  const lastToken = index.readUInt16LE(510);
  return lastToken < tokenTable.size && readSpan(image, tokenTable).indexOf(0, lastToken) === tokenTable.size - 1;
}

function describe(image: KernelImage, steps: Step[]): Described {
  const found = timed(steps, 'kallsyms', () => findKallsyms(image) ?? failWithoutKallsyms(image));
  return timed(steps, 'types', () => describeTypes(image, found));
}

function describeTypes(image: KernelImage, { kallsyms, bytes, symbols }: FoundKallsyms): Described {
  const span = locateBtf(image, symbols);
  const blob = span && readSpan(image, span);
  return {
    symbols,
    btf: blob && new Btf(new BtfTypes(blob)),
    description: {
      kallsyms,
      btf: span ?? null,
      digests: { kallsyms: digestKallsyms(kallsyms, bytes), btf: span && blob ? digestBtf(span, blob) : null },
      answers: noAnswers(),
    },
  };
}

function failWithoutKallsyms(image: KernelImage): never {
  const banner = findBanner(image);
  const where = `0x${image.base.toString(16)}-0x${image.end.toString(16)}`;
  if (banner === undefined) {
    throw new PenumbraError('NO_KERNEL', `what is mapped at ${where} is no Linux kernel: no banner, no symbol table`);
  }
  throw new PenumbraError(
    'NO_KALLSYMS',
    `the guest kernel ${releaseOf(banner)} has no symbol table in a known layout (is it built with CONFIG_KALLSYMS?)`,
  );
}

function timed<T>(steps: Step[], name: string, work: () => T): T {
  const start = performance.now();
  try {
    return work();
  } finally {
    steps.push({ name, milliseconds: performance.now() - start });
  }
}
