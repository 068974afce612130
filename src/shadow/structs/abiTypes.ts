import { direntTypes } from './dirent.js';
import { eventTypes } from './event.js';
import { fileTypes } from './file.js';
import { ipcTypes } from './ipc.js';
import type { AbiType } from './layout.js';
import { mountTypes } from './mount.js';
import { scalarTypes } from './scalar.js';
import { sockaddr } from './socketAddress.js';
import { systemTypes } from './system.js';
import { timeTypes } from './time.js';

const ALL: readonly AbiType[] = [
  ...scalarTypes,
  ...timeTypes,
  ...fileTypes,
  ...direntTypes,
  ...systemTypes,
  ...eventTypes,
  ...ipcTypes,
  ...mountTypes,
  sockaddr,
];

/** Every pointed-to type that profiles/syscalls.x86_64 may name, but for iovec, msghdr, mmsghdr and strings (scatter.ts). */
export const abiTypes: ReadonlyMap<string, AbiType> = new Map(ALL.map((type) => [type.name, type]));
