import type { NativeStepResult } from '../shadow/nativeCall.js';
import { bytesOf, out, type StepList, value } from '../shadow/stepList.js';

const CLOCK_REALTIME = 0;
const CLOCK_BOOTTIME = 7;
/** struct timespec */
const timespecSize = 16;

/** Asks for the two clocks of which the difference is when the guest booted; undefined where one is not there. */
export function addClocks(list: StepList) {
  const realtime = list.add('clock_gettime', value(CLOCK_REALTIME), out(timespecSize));
  const boottime = list.add('clock_gettime', value(CLOCK_BOOTTIME), out(timespecSize));
  return (results: readonly NativeStepResult[]) => ({
    realtime: bytesOf(results, realtime),
    boottime: bytesOf(results, boottime),
  });
}
