/**
 * penumbra's public face: attach to a guest, ask it, let it go.
 *
 *     import { attach } from 'penumbra';
 *     await using guest = await attach({ qmp: '/run/vm/qmp.sock' });
 *     for (const process of await guest.processes()) console.log(process.pid, process.comm.toString());
 */
import { type AttachOptions, Guest } from './schedule/guest.js';

export { type ErrorCode, GuestError, PenumbraError } from './errors.js';
export { type GuestRecord, listGuests } from './hypervisor/discover.js';
export { type MemoryMapping, readMemoryMaps } from './inspect/memoryMaps.js';
export type { Question } from './inspect/moment.js';
export * from './inspect/records.js';
export type { AbsenceReason, AbsentRange } from './kernel/absentPage.js';
export type { Kernel } from './kernel/kernel.js';
export type { AddressSpace, MemoryRequest, PageState } from './kernel/processMemory.js';
export { type AttachOptions, type EngineName, Guest, type GuestInfo } from './schedule/guest.js';
export type { BatchStep } from './shadow/batch.js';
export * from './shadow/constants.js';
export { CallError } from './shadow/failure.js';
export type { Shadow, ShadowTimes } from './shadow/shadow.js';

/** Attaches to a guest; see Guest.attach. */
export async function attach(options: AttachOptions = {}): Promise<Guest> {
  return Guest.attach(options);
}
