// What signals break off whose handler has no SA_RESTART: signals FILE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kRounds = 3000, kEnough = 50 };

static volatile int caught;

static void handle(int signal) {
  (void)signal;
  ++caught;
}

static void every(long microseconds) {
  const struct itimerval timer = {{0, microseconds}, {0, microseconds}};
  setitimer(ITIMER_REAL, &timer, NULL);
}

/// Calls that never wait, a signal every 300 us.
static int broken(const char* path) {
  int count = 0;
  for (int i = 0; i < kRounds || (caught < kEnough && i < 100 * kRounds); ++i) {
    char bytes[100];
    struct stat status;
    const int file = open(path, O_RDONLY);
    count += file < 0 || read(file, bytes, sizeof bytes) < 0 || fstat(file, &status) < 0 || stat(path, &status) < 0;
    count += close(file) < 0;
    if (i % 100 != 0) continue;
    const pid_t child = fork();
    if (child == 0) _exit(0);
    count += child < 0;
    while (child > 0 && waitpid(child, NULL, 0) < 0) {
    }
  }
  return count;
}

static const char* outcome(long result) { return result >= 0 ? "done" : errno == EINTR ? "broken off" : "failed"; }

int main(int count, char** words) {
  if (count != 2) return 2;
  struct sigaction action = {.sa_handler = handle}, found;
  sigaction(SIGALRM, &action, NULL);
  every(300);
  const int breaks = broken(words[1]);
  printf("%d broken off, %s signals\n", breaks, caught >= kEnough ? "many" : "few");

  // Waits, on the other hand, are to be broken off.
  every(100000);
  int pipes[2];
  char byte;
  if (pipe(pipes) != 0) return 1;
  printf("read of a pipe: %s\n", outcome(read(pipes[0], &byte, 1)));
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  printf("wait: %s\n", outcome(waitpid(child, NULL, 0)));
  action.sa_handler = SIG_IGN;
  sigaction(SIGALRM, &action, &found);
  sigaction(SIGALRM, &found, NULL);
  printf("read with the handler put back: %s\n", outcome(read(pipes[0], &byte, 1)));
  found.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &found, NULL);
  const pid_t writer = fork();
  if (writer == 0) {
    found.sa_flags = 0;
    sigaction(SIGALRM, &found, NULL);
    every(100000);
    for (int i = 0; i < 3; ++i) pause();
    _exit(write(pipes[1], "x", 1) != 1);
  }
  printf("read with SA_RESTART: %s\n", outcome(read(pipes[0], &byte, 1)));
  kill(child, SIGKILL);
  while (wait(NULL) > 0) {
  }
  return 0;
}
