/** Times of the ABI. Kernel: uapi linux/time.h, linux/time_types.h, linux/timex.h, linux/times.h. */
import { i32, i64, nested, type StructType, type StructValue, struct, u32 } from './layout.js';

const timespecFields = { sec: i64(0), nsec: i64(8) };

export type Timespec = StructValue<typeof timespecFields>;
export const timespec: StructType<Timespec> = struct('timespec', 16, timespecFields);
export const timeval = struct('timeval', 16, { sec: i64(0), usec: i64(8) });
export const timezone = struct('timezone', 8, { minuteswest: i32(0), dsttime: i32(4) });
export const itimerspec = struct('itimerspec', 32, { interval: nested(0, timespec), value: nested(16, timespec) });
export const itimerval = struct('itimerval', 32, { interval: nested(0, timeval), value: nested(16, timeval) });
export const utimbuf = struct('utimbuf', 16, { actime: i64(0), modtime: i64(8) });

/** In clock ticks of 1/100 s (USER_HZ). */
export const tms = struct('tms', 32, { utime: i64(0), stime: i64(8), cutime: i64(16), cstime: i64(24) });

export const timex = struct('timex', 208, {
  modes: u32(0),
  offset: i64(8),
  freq: i64(16),
  maxerror: i64(24),
  esterror: i64(32),
  status: i32(40),
  constant: i64(48),
  precision: i64(56),
  tolerance: i64(64),
  time: nested(72, timeval),
  tick: i64(88),
  ppsfreq: i64(96),
  jitter: i64(104),
  shift: i32(112),
  stabil: i64(120),
  jitcnt: i64(128),
  calcnt: i64(136),
  errcnt: i64(144),
  stbcnt: i64(152),
  tai: i32(160),
});

export const timeTypes = [timespec, timeval, timezone, itimerspec, itimerval, utimbuf, tms, timex];
