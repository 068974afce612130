#include "test/made_tool.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "test/check.h"

namespace penumbra::test {

namespace {

constexpr uint8_t kPattern = 0xa5;
constexpr uint64_t kGuard = 64;

}  // namespace

MadeTool::MadeTool() : before_(kArena) {
  void* arena = mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(arena != MAP_FAILED);
  arena_ = static_cast<uint8_t*>(arena);
  process_.pid = fork();
  if (process_.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) pause();
  }
  const std::string folder = "/proc/" + std::to_string(process_.pid);
  process_.folder = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  process_.pidfd = static_cast<int>(syscall(SYS_pidfd_open, process_.pid, 0));
  CHECK(process_.memory.Open(process_.folder));
  process_.prepared = true;
}

MadeTool::~MadeTool() {
  kill(process_.pid, SIGKILL);
  waitpid(process_.pid, nullptr, 0);
  munmap(arena_, kArena);
}

void MadeTool::Clear() {
  std::memset(arena_, kPattern, kArena);
  taken_ = 0;
  writable_.clear();
}

uint8_t* MadeTool::Take(uint64_t size, bool writable) {
  const uint64_t begin = taken_ + kGuard;
  CHECK(begin + size + kGuard <= kArena);
  taken_ = begin + size;
  if (writable) writable_.push_back({begin, begin + size});
  return arena_ + begin;
}

void MadeTool::NoteContents() { std::memcpy(before_.data(), arena_, kArena); }

bool MadeTool::IsSpoilt() const {
  uint64_t at = 0;
  for (const Range& range : writable_) {
    if (std::memcmp(arena_ + at, before_.data() + at, range.begin - at) != 0) return true;
    at = range.end;
  }
  return std::memcmp(arena_ + at, before_.data() + at, kArena - at) != 0;
}

}  // namespace penumbra::test
