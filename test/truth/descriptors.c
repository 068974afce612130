// Random calls on files, and processes that share them: descriptors FOLDER FIRST-SEED ROUNDS
//   FOLDER  of kFiles files; each begins with its own number
// Prints every call with its result. No number in it depends on who answers: files are moved up to kLowest and more at
// once, processes are not named, and of two that run only one does something at a time.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { kFiles = 8, kLowest = 10, kHighest = 26, kSteps = 40, kDeepest = 3 };

static uint64_t state;
static const char* folder;
static const char* program;
static int depth;

static unsigned below(unsigned limit) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (unsigned)(state >> 33) % limit;
}

static int any(void) { return (int)(kLowest + below(kHighest - kLowest)); }

__attribute__((format(printf, 1, 2))) static void say(const char* format, ...) {
  char line[512];
  va_list values;
  va_start(values, format);
  const int length = vsnprintf(line, sizeof line, format, values);
  va_end(values);
  if (write(1, line, (size_t)length) != length) _exit(9);
}

static long told(const char* what, int a, int b, long result) {
  const int error = errno;
  say("%*s%s %d %d = %ld\n", depth, "", what, a, b, result < 0 ? -error : result);
  return result;
}

/// A new file takes the place that the seed wants, whichever it was given.
static void place(const char* what, int which, int file, int close_on_exec) {
  if (file < 0) {
    told(what, which, 0, file);
    return;
  }
  const int wanted = any();
  const int moved = fcntl(file, close_on_exec ? F_DUPFD_CLOEXEC : F_DUPFD, wanted);
  told(what, which, wanted, moved);
  close(file);
}

static void open_file(void) {
  char path[300];
  const unsigned which = below(kFiles + 1);
  const int flags = below(2) ? O_CLOEXEC : 0;
  snprintf(path, sizeof path, "%s/%u", folder, which);
  place("open", (int)which, open(path, O_RDONLY | flags), flags);
}

static void open_local(void) {
  int pair[2];
  const char text[] = "through a pipe of the tool's own";
  if (pipe2(pair, O_NONBLOCK) != 0) _exit(8);
  if (write(pair[1], text, sizeof text - 1) < 0) _exit(8);
  place("pipe", 0, pair[0], 0);
  close(pair[1]);
}

static void read_some(void) {
  char bytes[16];
  const int file = any(), wanted = (int)(1 + below(sizeof bytes - 1));
  const ssize_t got = read(file, bytes, (size_t)wanted);
  told("read", file, wanted, got);
  if (got > 0) say("%*s'%.*s'\n", depth, "", (int)got, bytes);
}

static void look(void) {
  struct stat status;
  const int file = any();
  const int result = fstat(file, &status);
  told("fstat", file, 0, result == 0 && S_ISREG(status.st_mode) ? status.st_size : result);
}

static void map(void) {
  const int file = any();
  char* memory = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
  if (memory == MAP_FAILED) {
    told("mmap", file, 0, -1);
    return;
  }
  told("mmap and close", file, 0, close(file));
  say("%*s'%.8s'\n", depth, "", memory);
  munmap(memory, 4096);
}

/// To itself, through a socket: nobody has it open in between.
static void pass(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) _exit(8);
  const int file = any();
  char byte = 'x';
  struct iovec piece = {&byte, 1};
  union {
    char bytes[CMSG_SPACE(sizeof file)];
    struct cmsghdr aligned;
  } space = {{0}};
  struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space};
  struct cmsghdr* attached = CMSG_FIRSTHDR(&message);
  attached->cmsg_level = SOL_SOCKET;
  attached->cmsg_type = SCM_RIGHTS;
  attached->cmsg_len = CMSG_LEN(sizeof file);
  memcpy(CMSG_DATA(attached), &file, sizeof file);
  const ssize_t sent = sendmsg(pair[0], &message, 0);
  told("pass", file, 0, sent);
  if (sent == 1) {
    close(file);
    struct stat status;
    told("fstat", file, 0, fstat(file, &status));
    if (recvmsg(pair[1], &message, 0) != 1) _exit(8);
    int received;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    place("received", file, received, 0);
  }
  close(pair[0]);
  close(pair[1]);
}

static void steps(int count);

static void* in_thread(void* count) {
  steps((int)(intptr_t)count);
  return NULL;
}

static void thread(void) {
  pthread_t other;
  if (pthread_create(&other, NULL, in_thread, (void*)(intptr_t)below(6)) != 0) _exit(8);
  pthread_join(other, NULL);
}

/// Says what an executed program finds open.
static void inherit(void) {
  for (int file = kLowest; file < kHighest + kSteps; ++file) {
    if (fcntl(file, F_GETFD) >= 0) say("%*shas %d\n", depth, "", file);
  }
}

static void execute(void) {
  char seed[32], level[8];
  snprintf(seed, sizeof seed, "%llu", (unsigned long long)state);
  snprintf(level, sizeof level, "%d", depth);
  execl(program, program, folder, seed, "0", level, NULL);
  _exit(7);
}

static void child(void) {
  int gate[2];
  if (depth >= kDeepest || pipe2(gate, O_CLOEXEC) != 0) return;
  const int kind = (int)below(5), count = (int)below(8);
  const uint64_t seed = state;
  const pid_t pid = kind == 4 ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
  if (pid < 0) _exit(8);
  if (pid == 0) {
    char byte;
    close(gate[1]);
    // The parent goes on, and may close what is inherited, before this one does anything.
    if (read(gate[0], &byte, 1) < 0) _exit(8);
    close(gate[0]);
    ++depth;
    state = seed * 2654435761u + 1;
    if (kind == 3)
      for (;;) pause();
    if (kind == 2) execute();
    steps(count);
    _exit(count);
  }
  close(gate[0]);
  for (int i = (int)below(4); i > 0; --i) {
    const int file = any();
    told("close", file, 0, close(file));
  }
  told("kill", 0, 0, kill(pid, 0));
  int status = 0;
  told("wait", WNOHANG, 0, waitpid(pid, &status, WNOHANG));
  close(gate[1]);
  if (kind == 3) told("kill", SIGTERM, 0, kill(pid, SIGTERM));
  const pid_t ended = waitpid(below(2) ? pid : -1, &status, 0);
  told("wait", ended == pid, 0, status);
}

static void nobody(void) {
  siginfo_t information;
  told("waitpid", 0, 0, waitpid(-1, NULL, below(2) ? WNOHANG : 0));
  told("waitid", 0, 0, waitid(P_ALL, 0, &information, WEXITED));
}

static void step(void) {
  const int file = any(), other = any();
  switch (below(20)) {
    case 0:
    case 1:
    case 2:
    case 3:
      open_file();
      break;
    case 4:
      open_local();
      break;
    case 5:
    case 6:
    case 7:
      read_some();
      break;
    case 8:
      told("lseek", file, other, lseek(file, other, below(2) ? SEEK_SET : SEEK_CUR));
      break;
    case 9:
      told("dup2", file, other, dup2(file, other));
      break;
    case 10:
      told("dup3", file, other, dup3(file, below(8) ? other : file, below(2) ? O_CLOEXEC : below(4) ? 0 : O_APPEND));
      break;
    case 11:
      told("F_DUPFD", file, other, fcntl(file, below(2) ? F_DUPFD : F_DUPFD_CLOEXEC, other));
      break;
    case 12:
      told("F_SETFD", file, 0, fcntl(file, F_SETFD, below(2) ? FD_CLOEXEC : 0));
      told("F_GETFD", file, 0, fcntl(file, F_GETFD));
      break;
    case 13:
    case 14:
      told("close", file, 0, close(file));
      break;
    case 15:
      told("close_range", file, other,
           syscall(SYS_close_range, file, below(4) ? file + 3 : other,
                   below(3)   ? 0
                   : below(4) ? CLOSE_RANGE_CLOEXEC
                              : 64));
      break;
    case 16:
      if (below(2))
        look();
      else
        map();
      break;
    case 17:
      if (below(2))
        pass();
      else
        thread();
      break;
    case 18:
      child();
      break;
    default:
      nobody();
  }
}

static void steps(int count) {
  while (count-- > 0) step();
}

/// The first thread has ended: the rest still has its files. The guest numbers them from its first free one on.
static void* end(void* nothing) {
  (void)nothing;
  for (int i = 0; i < 1000; ++i) sched_yield();
  char path[300], byte = 0;
  snprintf(path, sizeof path, "%s/5", folder);
  const int file = open(path, O_RDONLY);
  if (read(file, &byte, 1) != 1) _exit(8);
  dprintf(2, "%d %c\n", file, byte);
  _exit(0);
}

int main(int count, char** words) {
  if (count < 4) return 2;
  program = words[0];
  folder = words[1];
  state = strtoull(words[2], NULL, 10) | 1;
  if (count == 5) {
    depth = atoi(words[4]);
    inherit();
    steps((int)below(8));
    return 3;
  }
  close_range(3, ~0u, 0);
  const uint64_t first = state;
  for (int i = 0; i < atoi(words[3]); ++i) {
    state = (first + 2 * (uint64_t)i) * 0x9e3779b97f4a7c15u;
    say("round %d\n", i);
    steps(kSteps);
    close_range(kLowest, ~0u, 0);
  }
  pthread_t other;
  if (pthread_create(&other, NULL, end, NULL) != 0) _exit(8);
  pthread_exit(NULL);
}
