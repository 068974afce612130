// A KVM that can do less, for a program that loads this before its libraries (ld.so(8), LD_PRELOAD). Asked each time:
//   LESS_KVM_CAPABILITY  "NUMBER VALUE": what KVM_CHECK_EXTENSION answers for it; a negative value is an errno
//   LESS_KVM_FEATURE     "LEAF REGISTER BIT": a bit that KVM_GET_SUPPORTED_CPUID leaves out; registers count from eax
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void leave_out(struct kvm_cpuid2* cpuid) {
  unsigned leaf, place, bit;
  const char* wanted = getenv("LESS_KVM_FEATURE");
  if (!wanted || sscanf(wanted, "%u %u %u", &leaf, &place, &bit) != 3) return;
  for (unsigned i = 0; i < cpuid->nent; ++i) {
    struct kvm_cpuid_entry2* entry = &cpuid->entries[i];
    __u32* registers[] = {&entry->eax, &entry->ebx, &entry->ecx, &entry->edx};
    if (entry->function == leaf) *registers[place & 3] &= ~(1u << bit);
  }
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void* argument = va_arg(rest, void*);
  va_end(rest);

  long number;
  int value;
  const char* wanted = getenv("LESS_KVM_CAPABILITY");
  if (request == KVM_CHECK_EXTENSION && wanted && sscanf(wanted, "%ld %d", &number, &value) == 2 &&
      number == (long)argument) {
    if (value >= 0) return value;
    errno = -value;
    return -1;
  }

  int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
  const int result = real(fd, request, argument);
  if (request == KVM_GET_SUPPORTED_CPUID && result == 0) leave_out(argument);
  return result;
}
