// The handlers of redirection against a guest that answers at random: nothing but the tool's buffers is written to, and
// the tool gets results that a kernel can give.
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "redirect/handlers.h"
#include "redirect/sound_answer.h"
#include "test/check.h"
#include "test/hostile_kernel.h"
#include "test/made_policy.h"
#include "test/made_tool.h"

namespace penumbra::test {

namespace {

constexpr uint64_t kCases = 30'000;
constexpr uint64_t kMostBuffer = 1024;

constexpr Row kRows[] = {
    {"read", SYS_read, "gbn", nullptr},
    {"pread64", SYS_pread64, "gbnx", nullptr},
    {"getdents64", SYS_getdents64, "gbn", nullptr},
    {"getdents", SYS_getdents, "gbn", nullptr},
    {"fstat", SYS_fstat, "go", nullptr},
    {"newfstatat", SYS_newfstatat, "dpo0", nullptr},
    {"statx", SYS_statx, "dp0xo", nullptr},
    {"getcwd", SYS_getcwd, "bn", nullptr},
    {"listxattr", SYS_listxattr, "pbn", nullptr},
    {"uname", SYS_uname, "o", nullptr},
    {"getgroups", SYS_getgroups, "kj", nullptr},
    {"getsockname", SYS_getsockname, "sbm", nullptr},
    {"lseek", SYS_lseek, "gxx", nullptr},
    {"readlink", SYS_readlink, "pbn", "readlink"},
    {"readlinkat", SYS_readlinkat, "dpbn", "readlink"},
    {"open", SYS_open, "p0", "open"},
    {"openat", SYS_openat, "dp0", "openat"},
    {"chdir", SYS_chdir, "p", "change-folder"},
    {"fchdir", SYS_fchdir, "g", "change-folder"},
    {"mmap", SYS_mmap, "0x00g0", "map"},
    {"fcntl", SYS_fcntl, "gxx", "control-file"},
    {"ioctl", SYS_ioctl, "gCo", "control-device"},
    {"ioctl", SYS_ioctl, "gGI", "control-device"},
    {"write", SYS_write, "wBn", "write"},
    {"writev", SYS_writev, "wVc", "write"},
    {"readv", SYS_readv, "gvc", "read-pieces"},
    {"preadv", SYS_preadv, "gvcx", "read-pieces"},
    {"sendfile", SYS_sendfile, "aafx", "copy"},
    {"splice", SYS_splice, "afafx", "copy"},
    {"copy_file_range", SYS_copy_file_range, "afafx", "copy"},
    {"tee", SYS_tee, "aax", "copy"},
    {"socket", SYS_socket, "xx0", "socket"},
    {"connect", SYS_connect, "sBn", "connect"},
    {"sendto", SYS_sendto, "sBn0Bn", "send"},
    {"recvfrom", SYS_recvfrom, "sbn0bm", "receive"},
    {"sendmsg", SYS_sendmsg, "sRx", "send-message"},
    {"recvmsg", SYS_recvmsg, "srx", "receive-message"},
    {"poll", SYS_poll, "qc0", "poll"},
    {"select", SYS_select, "Seee0", "select"},
    {"clock_nanosleep", SYS_clock_nanosleep, "xxt", "sleep"},
    {"clock_gettime", SYS_clock_gettime, "xo", "clock"},
    {"gettimeofday", SYS_gettimeofday, "oo", "time"},
    {"time", SYS_time, "o", "time"},
    {"gettid", SYS_gettid, "", "thread-id"},
    {"prctl", SYS_prctl, "xxx", "process-control"},
    {"prlimit64", SYS_prlimit64, "0x0o", "limits"},
};

Policy RulesOfFuzzer() {
  Policy policy = MakePolicy(kRows);
  policy.read_ahead = {"*"};
  return policy;
}

/// The guest's files that the tool has open, by what they are; they are given the same numbers in this process.
struct Files {
  static constexpr int kPlain = GuestFiles::kFirst, kWritable = kPlain + 1, kSocket = kPlain + 2, kWhole = kPlain + 3,
                       kCount = 4;

  explicit Files(GuestFiles* files) {
    for (int i = 0; i < kCount; ++i) {
      const int number = kPlain + i;
      const std::vector<uint8_t> contents(100, 'x');
      const int placeholder = files->Add(number, number == kWhole ? &contents : nullptr);
      CHECK(placeholder >= 0 && dup2(placeholder, number) == number);
      close(placeholder);
    }
    files->Find(kWritable)->writable = true;
    files->Find(kSocket)->family = AF_NETLINK;
    files->Find(kSocket)->protocol = NETLINK_ROUTE;
    int pair[2];
    CHECK(pipe2(pair, O_NONBLOCK) == 0 && write(pair[1], "in a pipe", 9) == 9);
    const int memory = memfd_create("of the host", 0);
    CHECK(memory >= 0 && write(memory, "in a file", 9) == 9);
    host = {pair[0], pair[1], memory};
  }
  ~Files() {
    for (int i = 0; i < kCount; ++i) close(kPlain + i);
    for (const int fd : host) close(fd);
  }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  std::vector<int> host;
};

/// A directory with one entry over and over.
class EndlessKernel final : public GuestKernel {
 public:
  GuestWindow window() const override { return {memory_.get(), kAddress, kSize}; }

  size_t Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) override {
    constexpr uint16_t kRecord = 24;
    uint8_t* entries = memory_.get() + (calls[0].arguments[1] - kAddress);
    const uint64_t length = calls[0].arguments[2] / kRecord * kRecord;
    std::memset(entries, 0, length);
    for (uint64_t at = 0; at < length; at += kRecord) {
      std::memcpy(entries + at + 16, &kRecord, sizeof kRecord);
      entries[at + 19] = 'x';
    }
    answers[0].value = static_cast<int64_t>(length);
    return count;
  }

  const std::string& failure() const override { return failure_; }

 private:
  static constexpr uint64_t kAddress = 0x7e0000001000, kSize = 64 << 10;

  std::unique_ptr<uint8_t[]> memory_ = std::make_unique<uint8_t[]>(kSize);
  std::string failure_;
};

class Fuzzer {
 public:
  Fuzzer() : kernel_(&random_), supervisor_(&kernel_, RulesOfFuzzer()), files_(&supervisor_.files()) {
    null_ = open("/dev/null", O_WRONLY | O_CLOEXEC);
    supervisor_.set_message_fd(null_);
  }
  ~Fuzzer() { close(null_); }

  void Try(const Row& row) {
    kernel_.SetWindow(random_.Chance(95) ? HostileKernel::kMostWindow : 64 + random_.Below(16384));
    tool_.Clear();
    buffer_ = nullptr;
    ToolCall call = {};
    call.number = row.number;
    call.thread = tool_.process()->pid;
    call.process = tool_.process();
    for (size_t i = 0; row.arguments[i] != 0; ++i) call.arguments[i] = Argument(row.arguments[i], call, i);
    if (random_.Chance(20)) OpenAhead();
    tool_.NoteContents();
    const Answer answer = supervisor_.Decide(call);
    CHECK_IN(row.name, !tool_.IsSpoilt());
    if (answer.kind != Answer::kValue) return;
    CHECK_IN(row.name, answer.value >= -4095);
    const bool fills = std::strpbrk(row.arguments, "bv") != nullptr && std::strpbrk(row.arguments, "nc") != nullptr;
    if (answer.value <= 0 || !fills) return;
    const bool may_ask_for_length = buffer_ != nullptr && row.number != SYS_read && row.number != SYS_pread64;
    if (given_ == 0 && may_ask_for_length) return;
    CHECK_IN(row.name, static_cast<uint64_t>(answer.value) <= given_);
    if (buffer_ != nullptr) {
      CHECK_IN(row.name, IsSound(row.number, buffer_, static_cast<uint64_t>(answer.value)));
    }
  }

 private:
  /// What the guest gives now may be what the next call is answered with.
  void OpenAhead() {
    const WindowPiece path = supervisor_.Take(16);
    if (path.host == nullptr) return;
    std::memcpy(path.host, "/anything", 10);
    const uint64_t flags = random_.Chance(50) ? O_DIRECTORY : 0;
    supervisor_.OpenAhead(static_cast<uint64_t>(AT_FDCWD), path, flags, 0);
  }

  uint64_t Argument(char letter, const ToolCall& call, size_t index) {
    switch (letter) {
      case 'g':
        return static_cast<uint64_t>(Files::kPlain) + random_.Below(Files::kCount);
      case 's':
        return Files::kSocket;
      case 'w':
        return Files::kWritable;
      case 'h':
        return static_cast<uint64_t>(files_.host[random_.Below(files_.host.size())]);
      case 'a':
        return Argument(random_.Chance(60) ? 'g' : 'h', call, index);
      case 'd':
        return random_.Chance(50) ? static_cast<uint64_t>(AT_FDCWD) : Files::kPlain;
      case 'p':
        return Place("/some/where", 12, false);
      case 'b':
      case 'B':
        return Buffer(letter == 'b');
      case 'n':
        return length_;
      case 'm':
        return Place(&length_, sizeof(uint32_t), true);
      case 'o':
      case 'i':
        return reinterpret_cast<uint64_t>(tool_.Take(kStructure, letter == 'o'));
      case 'f':
        return Offset();
      case 'v':
      case 'V':
        return Pieces(letter == 'v');
      case 'c':
        return count_;
      case 'r':
      case 'R':
        return Header(letter == 'r');
      case 'q':
        return Polled();
      case 't':
        return Place(&kTime, sizeof kTime, false);
      case 'S':
        return FD_SETSIZE;
      case 'C':
        return kCommands[random_.Below(std::size(kCommands))];
      case 'G':
        return SIOCGIFCONF;
      case 'I':
        return Interfaces();
      case 'e':
        return Set();
      case 'k':
        return count_ = random_.Below(100);
      case 'j':
        return reinterpret_cast<uint64_t>(tool_.Take(count_ * sizeof(uint32_t), true));
      case 'x':
        return random_.Below(200);
      default:
        return 0;
    }
  }

  uint64_t Place(const void* bytes, uint64_t size, bool writable) {
    uint8_t* place = tool_.Take(size, writable);
    if (size > 0) std::memcpy(place, bytes, size);
    return reinterpret_cast<uint64_t>(place);
  }

  uint64_t Buffer(bool writable) {
    length_ = random_.Below(kMostBuffer);
    uint8_t* buffer = tool_.Take(length_, writable);
    // What is returned is the length of the first.
    if (buffer_ == nullptr) {
      buffer_ = buffer;
      given_ = length_;
    }
    return reinterpret_cast<uint64_t>(buffer);
  }

  uint64_t Offset() {
    if (random_.Chance(50)) return 0;
    const int64_t offset = static_cast<int64_t>(random_.Below(100));
    return Place(&offset, sizeof offset, true);
  }

  std::vector<iovec> Vector(bool writable) {
    std::vector<iovec> pieces(random_.Below(5));
    given_ = 0;
    for (iovec& piece : pieces) {
      const uint64_t size = random_.Below(300);
      piece = {tool_.Take(size, writable), size};
      given_ += size;
    }
    count_ = pieces.size();
    return pieces;
  }

  uint64_t Pieces(bool writable) {
    const std::vector<iovec> pieces = Vector(writable);
    return Place(pieces.data(), pieces.size() * sizeof(iovec), false);
  }

  uint64_t Header(bool writable) {
    const std::vector<iovec> pieces = Vector(writable);
    msghdr header = {};
    header.msg_namelen = static_cast<socklen_t>(random_.Below(140));
    header.msg_name = tool_.Take(header.msg_namelen, writable);
    header.msg_controllen = random_.Chance(50) ? random_.Below(300) : 0;
    header.msg_control = tool_.Take(header.msg_controllen, writable);
    header.msg_iov = reinterpret_cast<iovec*>(Place(pieces.data(), pieces.size() * sizeof(iovec), false));
    header.msg_iovlen = pieces.size();
    return Place(&header, sizeof header, true);
  }

  uint64_t Polled() {
    std::vector<pollfd> polled(random_.Below(8));
    for (pollfd& entry : polled) {
      entry = {static_cast<int>(Files::kPlain + random_.Below(Files::kCount)), POLLIN | POLLOUT, 0};
    }
    count_ = polled.size();
    return Place(polled.data(), polled.size() * sizeof(pollfd), true);
  }

  uint64_t Set() {
    fd_set set = {};
    for (int i = 0; i < Files::kCount; ++i) FD_SET(Files::kPlain + i, &set);
    return Place(&set, sizeof set, true);
  }

  uint64_t Interfaces() {
    ifconf request = {};
    request.ifc_len = static_cast<int>(random_.Below(400));
    if (random_.Chance(80)) {
      request.ifc_buf = reinterpret_cast<char*>(tool_.Take(static_cast<uint64_t>(request.ifc_len), true));
    }
    return Place(&request, sizeof request, true);
  }

  static constexpr timespec kTime = {1, 500};
  static constexpr uint32_t kCommands[] = {SIOCGIFNAME, SIOCGIFCONF, FIONREAD, TIOCGWINSZ, 0x80081272, FIONBIO};

  Random random_;
  HostileKernel kernel_;
  Supervisor supervisor_;
  Files files_;
  MadeTool tool_;
  int null_ = -1;
  uint64_t length_ = 0, given_ = 0, count_ = 0;
  uint8_t* buffer_ = nullptr;
};

}  // namespace

TEST("redirection survives a guest that answers at random") {
  Fuzzer fuzzer;
  Random random;
  for (uint64_t i = 0; i < kCases * CaseFactor(); ++i) fuzzer.Try(kRows[random.Below(std::size(kRows))]);
}

TEST("a directory without end is given up") {
  constexpr uint64_t kBuffer = 16 << 10, kMostCalls = 100'000;
  EndlessKernel kernel;
  Supervisor supervisor(&kernel, MakePolicy(kRows));
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  supervisor.set_message_fd(null);
  const Files files(&supervisor.files());
  MadeTool tool;
  tool.Clear();
  ToolCall call = {};
  call.number = SYS_getdents64;
  call.process = tool.process();
  call.arguments[0] = Files::kPlain;
  call.arguments[1] = reinterpret_cast<uint64_t>(tool.Take(kBuffer, true));
  call.arguments[2] = kBuffer;
  Answer answer = supervisor.Decide(call);
  CHECK_EQUAL(answer.value, static_cast<int64_t>(kBuffer / 24 * 24));
  uint64_t calls = 1;
  while (answer.value > 0 && calls++ < kMostCalls) answer = supervisor.Decide(call);
  close(null);
  CHECK_EQUAL(answer.value, -EIO);
  CHECK(calls * kBuffer > 200 << 20);
}

}  // namespace penumbra::test
