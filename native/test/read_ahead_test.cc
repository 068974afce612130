// Reading ahead: a tool must not be able to tell. The truth is the same calls made by this process itself.
#include "redirect/read_ahead.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "redirect/supervisor.h"
#include "test/check.h"
#include "test/made_policy.h"

namespace penumbra::test {

namespace {

constexpr uint64_t kHere = static_cast<uint64_t>(static_cast<int64_t>(AT_FDCWD));

/// The kernel that runs this test, in the place of a guest's: its files have numbers from GuestFiles::kFirst on.
class OwnKernel final : public GuestKernel {
 public:
  GuestWindow window() const override { return {memory_.get(), reinterpret_cast<uint64_t>(memory_.get()), kSize}; }

  size_t Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) override {
    ++entries;
    for (size_t i = 0; i < count; ++i) answers[i] = {Make(calls[i], answers), false, false};
    return count;
  }

  const std::string& failure() const override { return failure_; }

  uint64_t entries = 0;

 private:
  static constexpr uint64_t kSize = 2 << 20;

  static int64_t Make(const GuestCall& call, const Answer* answers) {
    uint64_t a[6];
    std::copy(std::begin(call.arguments), std::end(call.arguments), a);
    if (call.result_argument != GuestCall::kNone) {
      const int64_t value = answers[call.result_of].value;
      if (value < 0) return value;
      a[call.result_argument] = static_cast<uint64_t>(value);
    }
    const long value = syscall(call.number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (value < 0) return -errno;
    if (call.number != SYS_openat) return value;
    const int moved = fcntl(static_cast<int>(value), F_DUPFD_CLOEXEC, GuestFiles::kFirst);
    close(static_cast<int>(value));
    return moved;
  }

  std::unique_ptr<uint8_t[]> memory_ = std::make_unique<uint8_t[]>(kSize);
  std::string failure_;
};

constexpr Row kRows[] = {
    {"read", SYS_read, "gbn", nullptr},
    {"pread64", SYS_pread64, "gbnx", nullptr},
    {"getdents64", SYS_getdents64, "gbn", nullptr},
    {"lseek", SYS_lseek, "gxx", nullptr},
    {"fstat", SYS_fstat, "go", nullptr},
    {"getuid", SYS_getuid, "", nullptr},
};

Policy Rules() {
  Policy policy = MakePolicy(kRows);
  policy.read_ahead = {"*"};
  policy.scratch = false;
  return policy;
}

/// Files of lengths around what is read ahead, and directories around what one call lists.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/penumbra-ahead-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    path_ = name;
    for (const size_t size : {0u, 1u, 100u, 4095u, 4096u, 4097u, 20000u}) {
      std::string text(size, 'x');
      for (size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i * i % 26);
      paths.push_back(path_ + "/file" + std::to_string(size));
      std::ofstream(paths.back()) << text;
    }
    for (const int entries : {0, 5, 1500}) {
      paths.push_back(path_ + "/folder" + std::to_string(entries));
      std::filesystem::create_directory(paths.back());
      for (int i = 0; i < entries; ++i) std::ofstream(paths.back() + "/entry-of-the-folder-" + std::to_string(i));
    }
    paths.push_back("/proc/version");
    for (const char* name : {"ostype", "pid_max", "printk"}) paths.push_back(std::string("/proc/sys/kernel/") + name);
    paths.push_back("/proc/self/environ");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::vector<std::string> paths;

 private:
  std::string path_;
};

/// The kernel leaves what lies behind a name as it was.
void ClearPadding(uint8_t* entries, int64_t length) {
  constexpr size_t kName = 19;
  for (int64_t at = 0; at < length;) {
    uint16_t record;
    std::memcpy(&record, entries + at + 16, sizeof record);
    const size_t used = kName + std::strlen(reinterpret_cast<const char*>(entries + at + kName));
    std::memset(entries + at + used, 0, record - used);
    at += record;
  }
}

/// A process that reads through a supervisor, which is this one, and by itself.
class Reader {
 public:
  Reader() : supervisor_(&kernel_, Rules()), given_(kMost), truth_(kMost) {
    process_.pid = getpid();
    process_.folder = open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(process_.memory.Open(process_.folder));
    process_.pidfd = static_cast<int>(syscall(SYS_pidfd_open, process_.pid, 0));
    process_.prepared = true;
  }

  /// Opens and reads in random steps.
  void Read(const std::string& path) {
    struct stat status;
    CHECK(stat(path.c_str(), &status) == 0);
    const int flags = O_RDONLY | O_CLOEXEC | (S_ISDIR(status.st_mode) ? O_DIRECTORY : 0);
    const int own = open(path.c_str(), flags);
    const int guest = static_cast<int>(OpenAhead(path, static_cast<uint64_t>(flags)));
    CHECK(own >= 0 && guest >= 0);
    const int placeholder = supervisor_.AddFile(guest, supervisor_.HasWhole(guest) && random_.Chance(50));
    wholes_ += supervisor_.files().IsWhole(guest) ? 1 : 0;
    const int tool = fcntl(placeholder, F_DUPFD_CLOEXEC, 0);
    for (uint64_t steps = random_.Below(9); steps > 0; --steps) {
      Step(path, static_cast<uint64_t>(own), static_cast<uint64_t>(tool), S_ISDIR(status.st_mode));
    }
    for (const int fd : {own, tool, placeholder}) close(fd);
  }

  uint64_t entries() const { return kernel_.entries; }
  /// Files whose contents were handed over.
  uint64_t wholes() const { return wholes_; }

 private:
  static constexpr uint64_t kMost = 140'000;
  static constexpr uint64_t kSizes[] = {1, 24, 100, 200, 4095, 4096, 4097, 8192, 32767, 32768, 65536, 131072};

  int64_t OpenAhead(const std::string& path, uint64_t flags) {
    Ask(SYS_fstat, 0, 0, 0, 0);
    const WindowPiece place = supervisor_.Take(path.size() + 1);
    std::memcpy(place.host, path.c_str(), path.size() + 1);
    return supervisor_.OpenAhead(kHere, place, flags, 0);
  }

  int64_t Ask(uint32_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
    ToolCall call = {};
    call.number = number;
    call.process = &process_;
    call.thread = process_.pid;
    const uint64_t arguments[] = {a, b, c, d};
    std::copy(std::begin(arguments), std::end(arguments), call.arguments);
    const Answer answer = supervisor_.Decide(call);
    if (answer.kind == Answer::kValue) return answer.value;
    CHECK(answer.kind == Answer::kContinue);
    const long value = syscall(number, a, b, c, d);
    return value < 0 ? -errno : value;
  }

  void Step(const std::string& path, uint64_t own, uint64_t tool, bool is_folder) {
    uint32_t number = random_.Chance(85) == is_folder ? SYS_getdents64 : SYS_read;
    uint64_t c = kSizes[random_.Below(std::size(kSizes))], d = 0;
    uint64_t theirs = reinterpret_cast<uint64_t>(given_.data()), ours = reinterpret_cast<uint64_t>(truth_.data());
    switch (random_.Below(10)) {
      case 0:
        number = SYS_pread64;
        d = random_.Below(5000);
        break;
      case 1:
        // Positions in a directory mean nothing but those it gave.
        number = SYS_lseek;
        theirs = ours = is_folder ? 0 : random_.Below(5000);
        c = is_folder ? SEEK_SET : random_.Below(3);
        break;
      case 2:
        number = SYS_fstat;
        break;
      case 3:
        Ask(SYS_getuid, 0, 0, 0, 0);
        break;
      default:
        break;
    }
    std::fill(given_.begin(), given_.end(), 0);
    std::fill(truth_.begin(), truth_.end(), 0);
    const int64_t value = Ask(number, tool, theirs, c, d);
    const long expected = syscall(number, own, ours, c, d);
    const std::string where = path + ": call " + std::to_string(number) + " of " + std::to_string(c);
    CHECK_EQUAL_IN(where, value, expected < 0 ? -errno : expected);
    if (number == SYS_getdents64 && value > 0) {
      ClearPadding(given_.data(), value);
      ClearPadding(truth_.data(), value);
    }
    CHECK_IN(where, number == SYS_fstat || given_ == truth_);
  }

  Random random_;
  OwnKernel kernel_;
  Supervisor supervisor_;
  ToolProcess process_;
  uint64_t wholes_ = 0;
  std::vector<uint8_t> given_, truth_;
};

}  // namespace

TEST("what was read ahead is what would have been read") {
  constexpr uint64_t kCases = 3000;
  const Folder folder;
  Reader reader;
  Random random;
  for (uint64_t i = 0; i < kCases * CaseFactor(); ++i) {
    reader.Read(folder.paths[random.Below(folder.paths.size())]);
  }
  CHECK(reader.wholes() > 0);
}

}  // namespace penumbra::test
