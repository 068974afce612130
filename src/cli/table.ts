/** Text in columns. */

export interface Column<Row> {
  title: string;
  /** printable text, already escaped */
  text: (row: Row) => string;
  align?: 'left' | 'right';
}

/** Rows under a line of titles (without it when `titles` is false). The last column is not padded. */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[], titles = true): string {
  const cells = rows.map((row) => columns.map((column) => column.text(row)));
  if (titles) cells.unshift(columns.map(({ title }) => title));
  const widths = columns.map((_, index) => widest(cells, index));
  const lines = cells.map((line) =>
    line
      .map((cell, index) => pad(cell, widths[index] as number, columns[index]?.align, index === line.length - 1))
      .join(' '),
  );
  return lines.map((line) => `${line.trimEnd()}\n`).join('');
}

/** Lines of `name: value`. */
export function properties(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length)) + 1;
  return pairs.map(([name, value]) => `${`${name}:`.padEnd(width)} ${value}\n`).join('');
}

function widest(cells: readonly string[][], index: number): number {
  let most = 0;
  for (const line of cells) most = Math.max(most, length(line[index] as string));
  return most;
}

function pad(cell: string, width: number, align: 'left' | 'right' = 'left', isLast: boolean): string {
  const blanks = width - length(cell);
  if (align === 'right') return ' '.repeat(blanks) + cell;
  return isLast ? cell : cell + ' '.repeat(blanks);
}

/** In characters: wide ones count as one, which only costs alignment. */
function length(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
