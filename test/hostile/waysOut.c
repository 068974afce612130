// Ways out of the filter that a program could know of: waysOut FOLDER PID
//   FOLDER  of the host, with a file `canary` and a pipe `fifo`; PID  a process of the host
// Prints "name result" for each: what the call returned, or -errno (of the loader's -1).
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static char path[512];
static const char* folder;

static const char* in_folder(const char* name) {
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void tell(const char* name, long result) { printf("%s %ld\n", name, result < 0 ? -(long)errno : result); }

static struct sockaddr_un named(const char* name) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", in_folder(name));
  return address;
}

static void sockets(void) {
  int pair[2];
  tell("datagram-pair", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
  tell("raw-pair", socketpair(AF_UNIX, SOCK_RAW, 0, pair));
  tell("stream-pair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  struct sockaddr_un made = named("made"), other = named("other");
  tell("bind", bind(pair[0], (struct sockaddr*)&made, sizeof made));
  tell("connect", connect(pair[0], (struct sockaddr*)&other, sizeof other));
  tell("sendto", sendto(pair[0], "x", 1, 0, (struct sockaddr*)&other, sizeof other));
  struct ifreq interface = {.ifr_name = "lo"};
  tell("interface", ioctl(pair[0], SIOCGIFFLAGS, &interface));
  tell("write", write(pair[0], "x", 1));
}

static void signals(int victim) {
  int pipes[2], pair[2];
  if (pipe(pipes) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) exit(1);
  struct f_owner_ex owner = {F_OWNER_PID, victim};
  tell("set-owner", fcntl(pipes[0], F_SETOWN, victim));
  tell("set-owner-ex", fcntl(pipes[0], F_SETOWN_EX, &owner));
  tell("async", fcntl(pipes[0], F_SETFL, O_ASYNC));
  tell("ioctl-owner", ioctl(pair[0], FIOSETOWN, &victim));
  tell("ioctl-group", ioctl(pair[0], SIOCSPGRP, &victim));
  int on = 1;
  tell("ioctl-async", ioctl(pair[0], FIOASYNC, &on));
  tell("nonblocking", fcntl(pipes[0], F_SETFL, O_NONBLOCK));
  if (write(pipes[1], "x", 1) != 1 || write(pair[1], "x", 1) != 1) exit(1);
}

// The loader's own system call instruction: "syscall; cmp rax, -4096; ja ...; ret".
static unsigned char* loader_call(void) {
  static const unsigned char code[] = {0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0x77};
  unsigned char* base = (unsigned char*)getauxval(AT_BASE);
  const Elf64_Ehdr* header = (const Elf64_Ehdr*)base;
  const Elf64_Phdr* segments = (const Elf64_Phdr*)(base + header->e_phoff);
  for (int i = 0; i < header->e_phnum; i++) {
    if (segments[i].p_type != PT_LOAD || !(segments[i].p_flags & PF_X)) continue;
    unsigned char *at = base + segments[i].p_vaddr, *end = at + segments[i].p_memsz - sizeof code - 2;
    for (; at < end; at++) {
      if (memcmp(at, code, sizeof code) == 0 && at[sizeof code + 1] == 0xc3) return at;
    }
  }
  puts("loader none");
  exit(1);
}

static long by_loader(const char* name, long flags) {
  long result;
  register long mode __asm__("r10") = 0;
  __asm__ volatile("sub $128, %%rsp\n call *%[at]\n add $128, %%rsp"
                   : "=a"(result)
                   : "a"((long)SYS_openat), "D"((long)AT_FDCWD), "S"(name), "d"(flags),
                     "r"(mode), [at] "r"(loader_call())
                   : "rcx", "r8", "r9", "r11", "memory");
  // Behind the instruction the loader makes -1 of every error.
  errno = 1;
  return (int)result;
}

static void loader(void) {
  tell("loader-file", by_loader(in_folder("canary"), O_RDONLY));
  tell("loader-pipe", by_loader(in_folder("fifo"), O_RDONLY));
  tell("loader-device", by_loader("/dev/null", O_RDWR));
  long library = by_loader("/etc/ld.so.cache", O_RDONLY);
  tell("loader-cache", library >= 0 ? 0 : library);
  int flags = FS_NOATIME_FL;
  tell("set-flags", ioctl((int)library, FS_IOC_SETFLAGS, &flags));
  tell("freeze", ioctl((int)library, FIFREEZE, 0));
  tell("mode", fchmod((int)library, 0600));
}

// What a kernel gives.
static void answers(void) {
  int pipes[2];
  if (pipe(pipes) != 0 || dup2(pipes[1], 500) != 500) exit(1);
  int file = open("/proc/version", O_RDONLY);
  tell("other-number", file >= 0 && file != 500);
  tell("own-number", write(500, "x", 1));
  tell("map", mmap(0, 4096, PROT_READ, MAP_PRIVATE, file, 0) == MAP_FAILED ? -1 : 0);
  struct flock lock = {.l_type = F_WRLCK};
  tell("get-lock", fcntl(file, F_GETLK, &lock) < 0 ? -1 : lock.l_type == F_UNLCK);
  struct pollfd polled[] = {{file, POLLIN, 0}, {900, POLLIN, 0}};
  tell("poll", poll(polled, 2, 0));
  tell("poll-closed", polled[1].revents == POLLNVAL);
  tell("closed-folder", openat(900, "x", O_RDONLY));
}

int main(int count, char** words) {
  if (count != 3) return 2;
  folder = words[1];
  sockets();
  signals(atoi(words[2]));
  loader();
  answers();
  return 0;
}
