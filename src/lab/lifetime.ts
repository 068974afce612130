/** Something to be ended at once, without waiting, when this process ends. */
export interface Ending {
  stopNow(): void;
}

const ENDING_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const own = new Set<Ending>();
let watching = false;

/** From now on `ending` does not outlive this process, as long as this process ends in an orderly way. */
export function endWithThisProcess(ending: Ending): void {
  own.add(ending);
  if (watching) return;
  watching = true;
  process.on('exit', stopAllNow);
  for (const name of ENDING_SIGNALS) process.once(name, endBySignal);
}

export function release(ending: Ending): void {
  own.delete(ending);
}

function stopAllNow(): void {
  for (const ending of own) ending.stopNow();
  own.clear();
}

/** Cleans up, then lets the signal have its usual effect, unless others in this process handle it. */
function endBySignal(name: NodeJS.Signals): void {
  stopAllNow();
  if (process.listenerCount(name) === 0) process.kill(process.pid, name);
}
