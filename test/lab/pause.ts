import { PenumbraError } from '../../src/errors.js';
import type { TestGuest } from './driver.js';

/** Pauses a guest where it can be asked: one that is paused is never found at a better moment. */
export async function stopBetweenUpdates(lab: TestGuest, ask: () => Promise<unknown>): Promise<void> {
  for (;;) {
    await lab.qmp('stop');
    try {
      await ask();
      return;
    } catch (error) {
      if (!(error instanceof PenumbraError && error.code === 'LOCKED')) throw error;
    }
    await lab.qmp('cont');
  }
}
