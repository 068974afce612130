import { escapeBytes } from '../text.js';

/** The name of a user or group of the guest, its number where there is none. */
export function ownerName(names: ReadonlyMap<number, Buffer>, id: number): string {
  const name = names.get(id);
  return name === undefined ? String(id) : escapeBytes(name);
}
