import type { Summary } from './statistics.js';

/** One number of the report; `target` is what SPECIFICATION.md promises, in the same unit. */
export interface Row {
  suite: string;
  name: string;
  unit: 'ms' | 'us' | 'ratio' | 'count' | 'MiB';
  median: number;
  minimum: number;
  rounds: number;
  target?: number;
}

/** Collects rows and prints each as soon as it is known. */
export class Report {
  readonly rows: Row[] = [];
  #suite = '';

  suite(name: string): void {
    this.#suite = name;
    process.stdout.write(`\n${name}\n`);
  }

  add(name: string, unit: Row['unit'], summary: Summary, target?: number): void {
    const row: Row = { suite: this.#suite, name, unit, ...summary, ...(target === undefined ? {} : { target }) };
    this.rows.push(row);
    const numbers = `median ${format(row.median)}  min ${format(row.minimum)} ${unit}`;
    const verdict =
      target === undefined ? '' : row.median <= target ? `  (target ${target}: met)` : `  (target ${target}: SHORT)`;
    process.stdout.write(`  ${name.padEnd(58)} ${numbers.padEnd(40)} n=${row.rounds}${verdict}\n`);
  }

  /** A quotient of two medians (and of two minima) taken in the same run. */
  ratio(name: string, above: Summary, below: Summary, target?: number): void {
    const summary = {
      median: above.median / below.median,
      minimum: above.minimum / below.minimum,
      rounds: above.rounds,
    };
    this.add(name, 'ratio', summary, target);
  }
}

function format(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(2) : value.toFixed(4);
}
