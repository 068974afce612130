// Tries every system call number with arguments that would do harm: everyCall FOLDER PID
//   FOLDER  of the host, with a file `canary`; PID  of a process of the host
// Each attempt has a process of its own, for many do not return. Prints "number set result".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kNumbers = 470, kSets = 6 };

static char file[512], other[512];
static char buffer[65536];
static long pid;

static void arguments(int set, long a[6]) {
  const long path = (long)file, second = (long)other, data = (long)buffer;
  const long sets[kSets][6] = {
      {path, second, 0777, 0, 0, 0},
      {AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0777, 0, 0},
      {AT_FDCWD, path, AT_FDCWD, second, 0, 0},
      {pid, SIGKILL, data, 64, 0, 0},
      {1, data, 64, 0, data, 64},
      {path, O_WRONLY | O_TRUNC | O_CREAT, 0777, data, 64, 0},
  };
  memcpy(a, sets[set], sizeof sets[set]);
}

static void attempt(int number, int set) {
  long a[6];
  // The attempt's own output must not be what a call on fd 1 hits.
  const int report = fcntl(1, F_DUPFD, 100);
  close(1);
  open("/dev/null", O_RDONLY);
  alarm(1);
  arguments(set, a);
  const long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  char line[96];
  const int length = snprintf(line, sizeof line, "%d %d %ld\n", number, set, result < 0 ? -errno : result);
  if (write(report, line, length) != length) _exit(1);
  _exit(0);
}

int main(int count, char** words) {
  if (count != 3) return 2;
  snprintf(file, sizeof file, "%s/canary", words[1]);
  snprintf(other, sizeof other, "%s/created", words[1]);
  pid = atol(words[2]);
  for (int number = 0; number < kNumbers; ++number) {
    // Leaving the program, and waiting for a child that never comes.
    if (number == SYS_exit || number == SYS_exit_group || number == SYS_rt_sigreturn) continue;
    for (int set = 0; set < kSets; ++set) {
      const pid_t child = fork();
      if (child == 0) attempt(number, set);
      int status = 0;
      // As flags of clone PID may ask for a signal that stops the caller when its child ends.
      for (pid_t ended = 0; ended != child || WIFSTOPPED(status);) {
        ended = waitpid(child, &status, WUNTRACED);
        if (ended < 0 && errno != EINTR) break;
        if (ended == child && WIFSTOPPED(status)) kill(child, SIGCONT);
      }
    }
  }
  puts("done");
  return 0;
}
