/** Times of one thing measured over and over, in the unit they were given in. */
export interface Summary {
  median: number;
  minimum: number;
  rounds: number;
}

export function summarise(times: readonly number[]): Summary {
  const sorted = [...times].sort((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return { median: middle, minimum: sorted[0] as number, rounds: sorted.length };
}

/** Runs `round` over and over and gives what it returns. */
export async function repeat<Value>(rounds: number, round: (index: number) => Promise<Value>): Promise<Value[]> {
  const values: Value[] = [];
  for (let index = 0; index < rounds; index += 1) values.push(await round(index));
  return values;
}
