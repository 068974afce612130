// Runs in the guest, without a C library: times syscalls natively, for the ratios of `npm run bench`.
// Prints a line per call: name, median and minimum in ns over the rounds.
typedef unsigned long u64;
typedef long s64;

enum { kRead = 0, kWrite = 1, kClose = 3, kGetpid = 39, kUname = 63, kExit = 60, kClock = 228, kOpenat = 257, kStat = 262,
       kGetdents = 217 };
enum { kRounds = 100, kCalls = 100, kAtFdCwd = -100, kDirectory = 0200000 };

static s64 call(s64 nr, s64 a, s64 b, s64 c, s64 d) {
  register s64 r10 __asm__("r10") = d;
  s64 result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

static char buffer[32768];

static u64 now(void) {
  u64 time[2];
  call(kClock, 1, (s64)time, 0, 0);
  return time[0] * 1000000000 + time[1];
}

static void print_number(u64 value, char end) {
  char text[24];
  int at = sizeof text;
  text[--at] = end;
  do {
    text[--at] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  call(kWrite, 1, (s64)(text + at), (s64)sizeof text - at, 0);
}

static void one(int which) {
  s64 fd;
  switch (which) {
    case 0: call(kGetpid, 0, 0, 0, 0); break;
    case 1: call(kUname, (s64)buffer, 0, 0, 0); break;
    case 2: call(kStat, kAtFdCwd, (s64) "/proc/1/status", (s64)buffer, 0); break;
    case 3:
    case 4:
      fd = call(kOpenat, kAtFdCwd, (s64)(which == 3 ? "/proc/1/stat" : "/proc/1/status"), 0, 0);
      call(kRead, fd, (s64)buffer, 4096, 0);
      call(kClose, fd, 0, 0, 0);
      break;
    default:
      fd = call(kOpenat, kAtFdCwd, (s64) "/proc", kDirectory, 0);
      while (call(kGetdents, fd, (s64)buffer, sizeof buffer, 0) > 0) {
      }
      call(kClose, fd, 0, 0, 0);
  }
}

void _start(void) {
  static const char *const names[] = {"getpid ", "uname ", "stat ", "read-stat ", "read-status ", "list-proc "};
  static const int lengths[] = {7, 6, 5, 10, 12, 10};
  for (int which = 0; which < 6; ++which) {
    u64 times[kRounds];
    for (int round = 0; round < kRounds; ++round) {
      const u64 begin = now();
      for (int i = 0; i < kCalls; ++i) one(which);
      u64 each = (now() - begin) / kCalls;
      int at = round;
      for (; at > 0 && times[at - 1] > each; --at) times[at] = times[at - 1];
      times[at] = each;
    }
    call(kWrite, 1, (s64)names[which], lengths[which], 0);
    print_number(times[kRounds / 2], ' ');
    print_number(times[0], '\n');
  }
  call(kExit, 0, 0, 0, 0);
}
