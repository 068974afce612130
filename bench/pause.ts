import { setTimeout as sleep } from 'node:timers/promises';

const PAUSE_MS = 3;

/** All stops meet a guest that has been running for a while. */
export async function afterPause<Value>(measure: () => Promise<Value>): Promise<Value> {
  await sleep(PAUSE_MS);
  return measure();
}
