#include "redirect/question.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "redirect/read_ahead.h"

namespace penumbra {

namespace {

constexpr uint8_t kNo = CallShape::kNone;
constexpr uint32_t kStat = 144, kStatx = 256, kStatfs = 120;  // struct stat, struct statx, struct statfs
constexpr uint32_t kRlimit = 16, kUtsname = 390;              // struct rlimit64, struct new_utsname

// Manual pages, section 2; order of the fields as in CallShape.
constexpr CallShape kShapes[] = {
    {SYS_openat, 4, 0, 1, kNo, kNo, 0, true},
    {SYS_read, 3, 0, kNo, 1, 2, 0, false, true},
    {SYS_pread64, 4, 0, kNo, 1, 2, 0, false, true},
    {SYS_getdents64, 3, 0, kNo, 1, 2, 0, false, true},
    {SYS_lseek, 3, 0, kNo, kNo, kNo, 0, false, true},
    {SYS_newfstatat, 4, 0, 1, 2, kNo, kStat},
    {SYS_statx, 5, 0, 1, 4, kNo, kStatx},
    {SYS_fstat, 2, 0, kNo, 1, kNo, kStat},
    {SYS_stat, 2, kNo, 0, 1, kNo, kStat},
    {SYS_lstat, 2, kNo, 0, 1, kNo, kStat},
    {SYS_statfs, 2, kNo, 0, 1, kNo, kStatfs},
    {SYS_fstatfs, 2, 0, kNo, 1, kNo, kStatfs},
    {SYS_readlink, 3, kNo, 0, 1, 2},
    {SYS_readlinkat, 4, 0, 1, 2, 3},
    {SYS_access, 2, kNo, 0},
    {SYS_faccessat, 3, 0, 1},
    {SYS_faccessat2, 4, 0, 1},
    {SYS_fcntl, 2, 0},
    {SYS_socket, 3, kNo, kNo, kNo, kNo, 0, true},
    {SYS_getpid, 0},
    {SYS_getppid, 0},
    {SYS_getuid, 0},
    {SYS_geteuid, 0},
    {SYS_getgid, 0},
    {SYS_getegid, 0},
    {SYS_prctl, 5},
    {SYS_prlimit64, 4, kNo, kNo, 3, kNo, kRlimit},
    {SYS_sched_getaffinity, 3, kNo, kNo, 2, 1},
    {SYS_uname, 1, kNo, kNo, 0, kNo, kUtsname},
};

const CallShape* FindShape(uint32_t number) {
  const auto found = std::find_if(std::begin(kShapes), std::end(kShapes),
                                  [&](const CallShape& shape) { return shape.number == number; });
  return found == std::end(kShapes) ? nullptr : found;
}

bool OnlyAsks(const GuestCall& call) {
  if (call.number == SYS_fcntl) return call.arguments[1] == F_GETFL;
  if (call.number == SYS_prctl) return call.arguments[0] == PR_CAPBSET_READ;
  if (call.number == SYS_prlimit64) return call.arguments[2] == 0;
  if (call.number != SYS_openat) return true;
  const uint64_t flags = call.arguments[2];
  return (flags & O_ACCMODE) == O_RDONLY && (flags & (O_CREAT | O_TRUNC)) == 0 && (flags & O_TMPFILE) != O_TMPFILE;
}

bool DescribeCall(const GuestCall& call, const GuestWindow& window, Question::Call* described) {
  const CallShape* shape = FindShape(call.number);
  if (shape == nullptr || !OnlyAsks(call)) return false;
  *described = {shape, {}, {}, call.result_argument, call.result_of};
  if (shape->out != kNo) {
    const uint64_t at = call.arguments[shape->out] - window.guest;
    if (at >= window.size || shape->Room(call.arguments) > window.size - at) return false;
  }
  for (uint8_t i = 0; i < shape->arguments; ++i) {
    if (i == call.result_argument || i == shape->out) continue;
    if (i != shape->text) {
      described->arguments[i] = call.arguments[i];
      continue;
    }
    const uint64_t at = call.arguments[i] - window.guest;
    if (at >= window.size) return false;
    const char* text = reinterpret_cast<const char*>(window.host + at);
    const size_t length = strnlen(text, window.size - at);
    if (length == window.size - at) return false;
    described->text.assign(text, length);
  }
  return true;
}

}  // namespace

uint64_t CallShape::Filled(const uint64_t (&given)[6], int64_t value) const {
  if (out == kNone || value < 0) return 0;
  return length == kNone ? bytes : std::min(static_cast<uint64_t>(value), given[length]);
}

bool Question::Call::operator==(const Call& other) const {
  return shape == other.shape && std::equal(std::begin(arguments), std::end(arguments), other.arguments) &&
         text == other.text && result_argument == other.result_argument && result_of == other.result_of;
}

bool DependsOnFile(const Question::Call& call) {
  const uint8_t file = call.shape->file;
  return file != CallShape::kNone && call.result_argument != file && !call.text.starts_with('/') &&
         static_cast<int>(call.arguments[file]) != AT_FDCWD;
}

QuestionKind Describe(const GuestCall* calls, size_t count, const GuestWindow& window, Question* question) {
  question->calls.resize(count);
  bool is_known = true;
  for (size_t i = 0; i < count; ++i) {
    if (DescribeCall(calls[i], window, &question->calls[i])) continue;
    if (!ChangesNothing(calls[i].number) || !OnlyAsks(calls[i])) return QuestionKind::kOther;
    is_known = false;
  }
  return is_known ? QuestionKind::kKnown : QuestionKind::kHarmless;
}

}  // namespace penumbra
