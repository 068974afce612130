/** Mounts. Kernel: uapi linux/mount.h (statmount and listmount since Linux 6.8, mount_setattr since 5.12). */
import { type AbiType, beforeNul, requireLength, type StructValue, struct, u32, u64 } from './layout.js';

const mountAttr = struct('mount_attr', 32, {
  attrSet: u64(0),
  attrClr: u64(8),
  propagation: u64(16),
  usernsFd: u64(24),
});

/** MNT_ID_REQ_SIZE_VER0; listing from LSMT_ROOT, the root of the caller's mount namespace, unless told otherwise. */
const REQUEST_SIZE = 24;
const LSMT_ROOT = 0xffff_ffff_ffff_ffffn;

function emptyRequest(): Buffer {
  const bytes = Buffer.alloc(32);
  bytes.writeUInt32LE(REQUEST_SIZE, 0);
  bytes.writeBigUInt64LE(LSMT_ROOT, 8);
  return bytes;
}

/** `param` is the STATMOUNT_* mask of statmount, the last id seen of listmount; mntNsId since Linux 6.11 (then size 32). */
const mntIdReq = struct(
  'mnt_id_req',
  32,
  { size: u32(0), mntId: u64(8), param: u64(16), mntNsId: u64(24) },
  { initial: emptyRequest() },
);

const statmountFields = {
  size: u32(0),
  mask: u64(8),
  sbDevMajor: u32(16),
  sbDevMinor: u32(20),
  sbMagic: u64(24),
  sbFlags: u32(32),
  mntId: u64(40),
  mntParentId: u64(48),
  mntIdOld: u32(56),
  mntParentIdOld: u32(60),
  mntAttr: u64(64),
  mntPropagation: u64(72),
  mntPeerGroup: u64(80),
  mntMaster: u64(88),
  propagateFrom: u64(96),
  /** since Linux 6.11 */
  mntNsId: u64(112),
};

/** Strings: where the header keeps the string's offset, and the bit of `mask` that says it is there. */
const STATMOUNT_STRINGS = [
  { name: 'mntRoot', offset: 104, bit: 0x8n },
  { name: 'mntPoint', offset: 108, bit: 0x10n },
  { name: 'fsType', offset: 36, bit: 0x20n },
  /** since Linux 6.11 */
  { name: 'mntOpts', offset: 4, bit: 0x80n },
] as const;

const STATMOUNT_HEADER = 512;
const statmountHeader = struct('statmount', STATMOUNT_HEADER, statmountFields);

export type Statmount = StructValue<typeof statmountFields> &
  Partial<Record<(typeof STATMOUNT_STRINGS)[number]['name'], Buffer>>;

const statmount: AbiType<Statmount> = {
  name: 'statmount',
  size: STATMOUNT_HEADER,
  variable: true,
  naturalSize: 8192,
  symbols: {},
  decode(bytes) {
    const header: Statmount = statmountHeader.decode(bytes);
    for (const { name, offset, bit } of STATMOUNT_STRINGS) {
      if ((header.mask & bit) === 0n) continue;
      const at = STATMOUNT_HEADER + bytes.readUInt32LE(offset);
      requireLength('statmount', bytes, at);
      header[name] = beforeNul(bytes.subarray(at));
    }
    return header;
  },
};

export const mountTypes = [mountAttr, mntIdReq, statmount];
