import { PenumbraError } from '../errors.js';

/** A stretch of the guest-physical address space as the vCPUs see it. */
export interface FlatSection {
  gpa: bigint;
  /** bytes */
  size: bigint;
  kind: 'ram' | 'rom' | 'ramd' | 'romd' | 'i/o';
  /** QEMU's memory region */
  name: string;
  /** where the section begins in its memory region */
  offset: bigint;
}

const MOST_SECTIONS = 100_000;
// "  0000000000100000-000000000fffffff (prio 0, ram): pc.ram @0000000000100000", "nv-" before the kind of an NVDIMM,
// the accelerator's name behind it, once for each of its address spaces that has this view (KVM has one of its own for
// system management mode): mtree_print_flatview in QEMU's softmmu/memory.c.
const SECTION =
  /^ {2}([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:nv-)?(ram|rom|ramd|romd|i\/o)\): (.*?)(?: @([0-9a-f]{16}))?(?: KVM)*$/;

/**
 * The sections of the address space "memory" in the output of HMP `info mtree -f`, ascending and without overlaps.
 * @throws PenumbraError UNSUPPORTED when the output has another form
 */
export function parseFlatView(text: string): FlatSection[] {
  const views = text.split(/^FlatView #\d+$/m);
  const view = views.find((candidate) => /^ AS "memory", root: /m.test(candidate));
  if (!view) throw new PenumbraError('UNSUPPORTED', 'QEMU\'s "info mtree -f" shows no address space "memory"');
  const sections = view.split('\n').flatMap((line) => parseSection(line) ?? []);
  if (sections.length === 0 || sections.length > MOST_SECTIONS) {
    throw new PenumbraError('UNSUPPORTED', `QEMU's "info mtree -f" shows ${sections.length} sections of memory`);
  }
  for (const [index, section] of sections.entries()) {
    const before = sections[index - 1];
    if (before && before.gpa + before.size > section.gpa) {
      throw new PenumbraError(
        'UNSUPPORTED',
        `QEMU's "info mtree -f" shows overlapping sections at 0x${section.gpa.toString(16)}`,
      );
    }
  }
  return sections;
}

function parseSection(line: string): FlatSection | undefined {
  const match = SECTION.exec(line.trimEnd());
  if (!match) return undefined;
  const [, first, last, kind, name, offset] = match;
  const gpa = BigInt(`0x${first}`);
  return {
    gpa,
    size: BigInt(`0x${last}`) - gpa + 1n,
    kind: kind as FlatSection['kind'],
    name: name ?? '',
    offset: BigInt(`0x${offset ?? '0'}`),
  };
}
