/** Guests to try penumbra on and to test it with. */
export type { CommandResult } from './console.js';
export { LabGuest, type StartOptions } from './guest.js';
export { type LabEntry, labDown, labList, labOpen, labUp } from './registry.js';
export {
  completeSpec,
  DEFAULT_SPEC,
  LAB_KERNELS,
  LAB_LOADS,
  LAB_MACHINES,
  LAB_RAM_KINDS,
  type LabSpec,
} from './spec.js';
