/** Bytes as `hexdump -C` shows them: address, sixteen bytes, the same as ASCII. */

const WIDTH = 16;
const ADDRESS_DIGITS = 16;

/** Lines of 16 bytes from `address` on; `skip(address)` leaves a line out, and a `*` stands for what was left out. */
export function hexDump(
  bytes: Buffer,
  address: bigint,
  skip: (from: bigint, to: bigint) => boolean = () => false,
): string {
  const lines: string[] = [];
  let isSkipping = false;
  for (let at = 0; at < bytes.length; at += WIDTH) {
    const row = bytes.subarray(at, at + WIDTH);
    const start = address + BigInt(at);
    if (!skip(start, start + BigInt(row.length))) lines.push(dumpRow(start, row));
    else if (!isSkipping) lines.push('*');
    isSkipping = lines.at(-1) === '*';
  }
  return lines.map((line) => `${line}\n`).join('');
}

function dumpRow(address: bigint, row: Buffer): string {
  const cells = Array.from({ length: WIDTH }, (_, index) => row.toString('hex', index, index + 1).padStart(2));
  const halves = [cells.slice(0, WIDTH / 2).join(' '), cells.slice(WIDTH / 2).join(' ')];
  const text = row.toString('latin1').replace(/[^ -~]/g, '.');
  return `${address.toString(16).padStart(ADDRESS_DIGITS, '0')}  ${halves.join('  ')}  |${text}|`;
}
