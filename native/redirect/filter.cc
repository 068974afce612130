#include "redirect/filter.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

#include "redirect/guest_files.h"

namespace penumbra {

namespace {

constexpr uint32_t kX32Bit = 0x40000000;  // __X32_SYSCALL_BIT

sock_filter Statement(uint16_t code, uint32_t value) { return {code, 0, 0, value}; }

sock_filter Jump(uint16_t test, uint32_t value, uint8_t when_true, uint8_t when_false) {
  return {static_cast<uint16_t>(BPF_JMP | test | BPF_K), when_true, when_false, value};
}

sock_filter Return(uint32_t action) { return Statement(BPF_RET | BPF_K, action); }

sock_filter Load(size_t offset) { return Statement(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }

uint32_t ActionOf(const CallRule& rule) {
  switch (rule.action) {
    case CallRule::kFree:
      return SECCOMP_RET_ALLOW;
    case CallRule::kAbsent:
      return SECCOMP_RET_ERRNO | ENOSYS;
    default:
      return SECCOMP_RET_USER_NOTIF;
  }
}

struct Range {
  uint32_t first;
  uint32_t action;
};

/// A binary search for the range that the number lies in; every leaf returns.
void Search(const std::vector<Range>& ranges, size_t from, size_t to, std::vector<sock_filter>* program) {
  if (to - from == 1) {
    program->push_back(Return(ranges[from].action));
    return;
  }
  const size_t middle = (from + to) / 2;
  const size_t at = program->size();
  program->push_back({});
  program->push_back({});
  Search(ranges, from, middle, program);
  // Short jumps reach 255 instructions only: a long one leads to the upper half.
  (*program)[at] = Jump(BPF_JGE, ranges[middle].first, 0, 1);
  (*program)[at + 1] = Statement(BPF_JMP | BPF_JA, static_cast<uint32_t>(program->size() - at - 2));
  Search(ranges, middle, to, program);
}

}  // namespace

// Files that a tool has whole have numbers of their own; to a tool they are those above what it may have.
std::vector<sock_filter> BuildFilter(const Policy& policy) {
  std::vector<sock_filter> program = {
      Load(offsetof(seccomp_data, arch)),
      Jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
      Return(SECCOMP_RET_KILL_PROCESS),
      Load(offsetof(seccomp_data, nr)),
      // mmap(addr, length, prot, flags, ...)
      Jump(BPF_JEQ, SYS_mmap, 0, 4),
      Load(offsetof(seccomp_data, args[3])),
      Jump(BPF_JSET, MAP_ANONYMOUS, 0, 1),
      Return(SECCOMP_RET_ALLOW),
      Return(SECCOMP_RET_USER_NOTIF),
      // read(fd, ...): one that the tool has whole
      Jump(BPF_JEQ, SYS_read, 0, 4),
      Load(offsetof(seccomp_data, args[0])),
      Jump(BPF_JGE, GuestFiles::kFirstWhole, 0, 1),
      Return(SECCOMP_RET_ALLOW),
      Return(SECCOMP_RET_USER_NOTIF),
      // dup2(fd, wanted), dup3(fd, wanted, ...)
      Jump(BPF_JEQ, SYS_dup2, 1, 0),
      Jump(BPF_JEQ, SYS_dup3, 0, 4),
      Load(offsetof(seccomp_data, args[1])),
      Jump(BPF_JGE, GuestFiles::kFirstWhole, 0, 1),
      Return(SECCOMP_RET_ERRNO | EBADF),
      Return(SECCOMP_RET_ALLOW),
      // fcntl(fd, command, least)
      Jump(BPF_JEQ, SYS_fcntl, 0, 10),
      Load(offsetof(seccomp_data, args[1])),
      Jump(BPF_JEQ, F_DUPFD, 4, 0),
      Jump(BPF_JEQ, F_DUPFD_CLOEXEC, 3, 0),
      Jump(BPF_JEQ, F_GETFD, 5, 0),
      Jump(BPF_JEQ, F_SETFD, 4, 0),
      Return(SECCOMP_RET_USER_NOTIF),
      Load(offsetof(seccomp_data, args[2])),
      Jump(BPF_JGE, GuestFiles::kFirstWhole, 0, 1),
      Return(SECCOMP_RET_ERRNO | EINVAL),
      Return(SECCOMP_RET_ALLOW),
      // rt_sigaction(signal, action, ...): without an action it only asks
      Jump(BPF_JEQ, SYS_rt_sigaction, 0, 6),
      Load(offsetof(seccomp_data, args[1])),
      Jump(BPF_JEQ, 0, 0, 3),
      Load(offsetof(seccomp_data, args[1]) + sizeof(uint32_t)),
      Jump(BPF_JEQ, 0, 0, 1),
      Return(SECCOMP_RET_ALLOW),
      Return(SECCOMP_RET_USER_NOTIF),
      Jump(BPF_JGE, kX32Bit, 0, 1),
      Return(SECCOMP_RET_ERRNO | ENOSYS),
  };
  std::vector<Range> ranges;
  for (uint32_t number = 0; number < policy.calls.size(); ++number) {
    const uint32_t action = ActionOf(policy.calls[number]);
    if (ranges.empty() || ranges.back().action != action) ranges.push_back({number, action});
  }
  ranges.push_back({Policy::kSyscalls, SECCOMP_RET_ERRNO | ENOSYS});
  Search(ranges, 0, ranges.size(), &program);
  return program;
}

}  // namespace penumbra
