import { PenumbraError } from '../errors.js';
import type { KernelImage } from './image.js';

/** init/version.c, linux_banner: `Linux version RELEASE (BUILDER) (COMPILER) VERSION\n` */
const PREFIX = Buffer.from('Linux version ');
const BANNER_LIMIT = 512;
/** UTS_RELEASE is at most 64 bytes, Makefile */
const RELEASE = /^Linux version ([\x21-\x7e]{1,64}) \(/;

/**
 * The kernel's banner, where its symbol says or else where it is found.
 *
 * @param symbol address of linux_banner, if that is known
 * @throws PenumbraError NO_KERNEL
 */
export function kernelBanner(image: KernelImage, symbol: bigint | undefined): string {
  const banner = (symbol === undefined ? undefined : bannerAt(image, symbol)) ?? findBanner(image);
  if (banner === undefined) throw new PenumbraError('NO_KERNEL', 'the kernel image has no banner "Linux version"');
  return banner;
}

/** The banner at an address: printable ASCII up to its line's end. undefined when there is none. */
function bannerAt(image: KernelImage, va: bigint): string | undefined {
  if (!image.contains(va)) return undefined;
  const room = image.end - va;
  const bytes = image.read(va, room < BANNER_LIMIT ? Number(room) : BANNER_LIMIT);
  if (!bytes.subarray(0, PREFIX.length).equals(PREFIX)) return undefined;
  const end = bytes.findIndex((c) => c < 0x20 || c > 0x7e);
  return bytes.toString('latin1', 0, end < 0 ? bytes.length : end);
}

/** The banner found by its content, for kernels without a symbol for it. */
export function findBanner(image: KernelImage): string | undefined {
  for (const va of image.find(PREFIX, 64)) {
    const banner = bannerAt(image, va);
    // linux_proc_banner is the same text with "%s" in place of the release
    if (banner !== undefined && RELEASE.test(banner) && !banner.startsWith('Linux version %s')) return banner;
  }
  return undefined;
}

/** `uname -r` of a banner, empty when the banner has another shape. */
export function releaseOf(banner: string): string {
  return RELEASE.exec(banner)?.[1] ?? '';
}
