/**
 * Small pieces of machine code that are put into a shadow's scratch page. `source` is what `bytes` was assembled from;
 * test/shadow.test.ts assembles it again and compares.
 */
export interface Stub {
  source: string;
  bytes: Buffer;
  /** offset of the first instruction in the scratch code page */
  entry: number;
  /** offset of the data cell that the code reads */
  data: number;
}

const clockData = 0x100;

export const stubs: { readonly clock: Stub } = {
  /** u64 read(struct clocksource *): the guest's last reading of its clock. */
  clock: {
    // endbr64 by its bytes: the assembler does not know it.
    source: '.byte 0xf3, 0x0f, 0x1e, 0xfa; mov rax, qword ptr [rip + 0xf5]; ret',
    bytes: Buffer.from('f30f1efa488b05f5000000c3', 'hex'),
    entry: 0,
    data: clockData,
  },
};
