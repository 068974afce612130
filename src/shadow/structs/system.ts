/** The system and its tasks. Kernel: uapi linux/utsname.h, sysinfo.h, resource.h, capability.h, sched/types.h, ldt.h. */
import { chars, i32, i64, nested, repeated, type StructValue, struct, u16, u32, u64 } from './layout.js';
import { timeval } from './time.js';

const NAME_LENGTH = 65;

const utsnameFields = {
  sysname: chars(0, NAME_LENGTH),
  nodename: chars(NAME_LENGTH, NAME_LENGTH),
  release: chars(2 * NAME_LENGTH, NAME_LENGTH),
  version: chars(3 * NAME_LENGTH, NAME_LENGTH),
  machine: chars(4 * NAME_LENGTH, NAME_LENGTH),
  domainname: chars(5 * NAME_LENGTH, NAME_LENGTH),
};

export type Utsname = StructValue<typeof utsnameFields>;
export const utsname = struct('utsname', 6 * NAME_LENGTH, utsnameFields);

const sysinfoFields = {
  uptime: i64(0),
  /** 1, 5 and 15 minutes, in units of 1/65536 */
  loads: repeated(8, 3, u64),
  /** these in units of memUnit bytes */
  totalram: u64(32),
  freeram: u64(40),
  sharedram: u64(48),
  bufferram: u64(56),
  totalswap: u64(64),
  freeswap: u64(72),
  procs: u16(80),
  totalhigh: u64(88),
  freehigh: u64(96),
  memUnit: u32(104),
};

export type Sysinfo = StructValue<typeof sysinfoFields>;
export const sysinfo = struct('sysinfo', 112, sysinfoFields);

/** RLIM_INFINITY is 2^64-1. */
export const rlimit = struct('rlimit', 16, { cur: u64(0), max: u64(8) });

export const rusage = struct('rusage', 144, {
  utime: nested(0, timeval),
  stime: nested(16, timeval),
  /** KiB */
  maxrss: i64(32),
  ixrss: i64(40),
  idrss: i64(48),
  isrss: i64(56),
  minflt: i64(64),
  majflt: i64(72),
  nswap: i64(80),
  inblock: i64(88),
  oublock: i64(96),
  msgsnd: i64(104),
  msgrcv: i64(112),
  nsignals: i64(120),
  nvcsw: i64(128),
  nivcsw: i64(136),
});

/** _LINUX_CAPABILITY_VERSION_3: two data elements of 32 bits each. */
const CAPABILITY_VERSION = 0x20080522;

const capHeader = struct('cap_header', 8, { version: u32(0), pid: i32(4) }, { initial: word(CAPABILITY_VERSION, 8) });
const capData = struct('cap_data', 12, { effective: u32(0), permitted: u32(4), inheritable: u32(8) });
const schedParam = struct('sched_param', 4, { priority: i32(0) });

/** SCHED_ATTR_SIZE_VER1 */
const SCHED_ATTR_SIZE = 56;
const schedAttr = struct(
  'sched_attr',
  SCHED_ATTR_SIZE,
  {
    size: u32(0),
    policy: u32(4, 'sched'),
    flags: u64(8),
    nice: i32(16),
    priority: u32(20),
    runtime: u64(24),
    deadline: u64(32),
    period: u64(40),
    /** since Linux 5.3 */
    utilMin: u32(48),
    utilMax: u32(52),
  },
  { initial: word(SCHED_ATTR_SIZE, SCHED_ATTR_SIZE) },
);

const userDesc = struct('user_desc', 16, { entryNumber: u32(0), baseAddr: u32(4), limit: u32(8), flags: u32(12) });

/** `size` zero bytes that begin with a 32-bit number. */
function word(value: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.writeUInt32LE(value, 0);
  return bytes;
}

export const systemTypes = [utsname, sysinfo, rlimit, rusage, capHeader, capData, schedParam, schedAttr, userDesc];
