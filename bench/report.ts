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

/**
 * What is promised for guests that QEMU emulates, or that run under KVM (in the nested lab, where everything takes many
 * times as long); a number alone is for emulated ones.
 */
export type Target = number | { tcg?: number; kvm?: number };

/** Collects rows and prints each as soon as it is known. */
export class Report {
  readonly rows: Row[] = [];
  readonly #accelerator: 'tcg' | 'kvm';
  #suite = '';

  constructor(accelerator: 'tcg' | 'kvm') {
    this.#accelerator = accelerator;
  }

  suite(name: string): void {
    this.#suite = name;
    process.stdout.write(`\n${name}\n`);
  }

  add(name: string, unit: Row['unit'], summary: Summary, promised: Target = {}): void {
    const target = (typeof promised === 'number' ? { tcg: promised } : promised)[this.#accelerator];
    const row: Row = { suite: this.#suite, name, unit, ...summary, ...(target === undefined ? {} : { target }) };
    this.rows.push(row);
    const numbers = `median ${format(row.median)}  min ${format(row.minimum)} ${unit}`;
    const verdict =
      target === undefined ? '' : `  (target ${format(target)}: ${row.median <= target ? 'met' : 'SHORT'})`;
    process.stdout.write(`  ${name.padEnd(58)} ${numbers.padEnd(40)} n=${row.rounds}${verdict}\n`);
  }

  /** A quotient of two medians (and of two minima) taken in the same run. */
  ratio(name: string, above: Summary, below: Summary, target?: Target): void {
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
