// What processes keep while others change: processes SCRIPT
//   SCRIPT  may be executed, but has an interpreter that is not there
// A child that is to ask nothing for a while waits for a word in shared memory, and is not started by fork(3), which
// asks.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kExecutions = 12, kThreads = 3, kEnded = 1000 };

static const char* program;
static int pipes[2];
static atomic_int* word;
static volatile int caught;

static void here(const char* who) {
  char path[4096];
  printf("%s: %s\n", who, getcwd(path, sizeof path) == NULL ? "nowhere" : path);
  fflush(stdout);
}

static void go_to(const char* folder) {
  if (chdir(folder) != 0) _exit(8);
}

static pid_t start(void) { return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }

static void await(int value) {
  while (atomic_load(word) != value) sched_yield();
}

/// Nobody waits for ever: the second signal writes what is read.
static void handle(int signal) {
  (void)signal;
  if (++caught == 2 && write(pipes[1], "x", 1) != 1) _exit(8);
}

static void catch (int flags) {
  struct sigaction action = {.sa_handler = handle, .sa_flags = flags};
  sigaction(SIGALRM, &action, NULL);
}

static void wait_for_signal(const char* who) {
  const struct itimerval timer = {{0, 100000}, {0, 100000}}, none = {{0, 0}, {0, 0}};
  char byte;
  caught = 0;
  setitimer(ITIMER_REAL, &timer, NULL);
  const char* how = read(pipes[0], &byte, 1) == 1 ? "done" : "broken off";
  setitimer(ITIMER_REAL, &none, NULL);
  printf("%s: %s\n", who, how);
  fflush(stdout);
}

static void folders(void) {
  go_to("/proc/sys/kernel");
  if (fork() == 0) {
    go_to("/proc/sys/vm");
    _exit(0);
  }
  wait(NULL);
  here("whose child went elsewhere");

  if (start() == 0) {
    await(1);
    here("whose parent went elsewhere");
    _exit(0);
  }
  go_to("/proc/sys/fs");
  atomic_store(word, 1);
  wait(NULL);

  static const char* const kFolders[] = {"/proc/sys/vm", "/proc/sys/net", "/proc/sys/kernel"};
  for (int i = 0; i < 3; ++i) {
    if (fork() == 0) {
      go_to(kFolders[i]);
      if (start() == 0) {
        await(2 + i);
        here("whose parent has ended");
        atomic_store(word, 20 + i);
        _exit(0);
      }
      _exit(0);
    }
    wait(NULL);
  }
  for (int i = 0; i < 3; ++i) {
    atomic_store(word, 2 + i);
    await(20 + i);
  }
  here("whose grandchildren went elsewhere");
}

static void handlers(const char* script) {
  catch (0);
  execl(script, script, NULL);
  wait_for_signal("after a program that could not be executed");
  if (start() == 0) {
    await(30);
    wait_for_signal("whose parent has other handlers now");
    _exit(0);
  }
  catch (SA_RESTART);
  atomic_store(word, 30);
  wait(NULL);
  wait_for_signal("handlers that break nothing off");
  if (fork() == 0) {
    catch (0);
    execl(program, program, "executed", "handlers", NULL);
    _exit(7);
  }
  wait(NULL);
}

static void* ask(void* nothing) {
  for (;;) syscall(SYS_getuid);
  return nothing;
}

static void* execute(void* nothing) {
  execl(program, program, "executed", "program", NULL);
  _exit(7);
  return nothing;
}

/// Executes this program while threads ask: by its first thread, or by another one.
static void executions(void) {
  go_to("/proc/sys/vm");
  for (int i = 0; i < kExecutions; ++i) {
    if (fork() == 0) {
      pthread_t thread;
      for (int j = 0; j < kThreads; ++j) pthread_create(&thread, NULL, ask, NULL);
      for (int j = 0; j < 100; ++j) sched_yield();
      if (i % 2 == 0) execute(NULL);
      pthread_create(&thread, NULL, execute, NULL);
      ask(NULL);
    }
    int status = 0;
    wait(&status);
    if (status != 0) printf("%d: %x\n", i, (unsigned)status);
  }
}

static int executed(const char* what) {
  if (strcmp(what, "handlers") == 0) {
    // The same handler at the same address, which now breaks nothing off.
    if (pipe(pipes) != 0) return 8;
    catch (SA_RESTART | SA_SIGINFO);
    wait_for_signal("handlers of an executed program");
    return 0;
  }
  struct timespec one, other;
  clock_gettime(CLOCK_MONOTONIC, &one);
  syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &other);
  if (labs(one.tv_sec - other.tv_sec) > 60) puts("two clocks");
  here("executed");
  return 0;
}

/// In the middle of their first question, some of them.
static void endings(void) {
  int ended = 0;
  for (int i = 0; i < kEnded; ++i) {
    if (start() == 0) {
      const struct itimerval timer = {{0, 0}, {0, 1 + i % 150}};
      setitimer(ITIMER_REAL, &timer, NULL);
      ask(NULL);
    }
    int status = 0;
    wait(&status);
    ended += WIFSIGNALED(status);
  }
  printf("%d ended by a signal\n", ended);
  fflush(stdout);
}

int main(int count, char** words) {
  program = words[0];
  if (count == 3) return executed(words[2]);
  if (count != 2 || pipe(pipes) != 0) return 2;
  word = mmap(NULL, sizeof *word, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (word == MAP_FAILED) return 2;
  endings();
  folders();
  handlers(words[1]);
  executions();
  return 0;
}
