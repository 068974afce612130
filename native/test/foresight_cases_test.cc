// Foresight in single cases: what must not be asked ahead, and what must be taken back.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "redirect/foresight.h"
#include "redirect/guest_files.h"
#include "test/check.h"

namespace penumbra::test {

namespace {

constexpr uint64_t kHere = static_cast<uint64_t>(static_cast<int64_t>(AT_FDCWD));

bool IsReadAheadHere(const char*, uint64_t flags) { return flags != 0; }

/// Whether something is asked ahead: not with one CPU, and where others want it not each time.
bool IsSoWhereLeftAlone(const std::function<bool()>& is_so) {
  if (std::thread::hardware_concurrency() < 2) return true;
  for (int tries = 0; tries < 20; ++tries) {
    if (is_so()) return true;
  }
  return false;
}

/// A kernel that remembers which files were opened and read.
class LoggedKernel final : public GuestKernel {
 public:
  std::map<std::string, std::string> contents;
  std::map<std::string, std::vector<std::pair<std::string, uint8_t>>> folders;  ///< names and types of the entries
  std::set<std::string> unseekable;
  std::set<std::string> consumed;    ///< by reading
  std::map<int, std::string> files;  ///< paths of those that are open
  int end_of_files = 2000;

  GuestWindow window() const override { return {memory_.get(), kAddress, kSize}; }
  const std::string& failure() const override { return failure_; }

  size_t Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) override {
    for (size_t i = 0; i < count; ++i) answers[i] = {Call(calls[i], answers)};
    return count;
  }

  bool WasTouched(const std::string& path) {
    const std::lock_guard lock(mutex_);
    return touched_.contains(path);
  }

  void AddFolder(const std::string& folder, const std::vector<std::string>& names, uint8_t type) {
    for (const std::string& name : names) folders[folder].emplace_back(name, type);
  }

 private:
  static constexpr uint64_t kSize = 1 << 20, kAddress = 0x640000000000;

  int64_t Call(const GuestCall& call, const Answer* before) {
    uint64_t a[6];
    std::copy(std::begin(call.arguments), std::end(call.arguments), a);
    if (call.result_argument != GuestCall::kNone) {
      const int64_t value = before[call.result_of].value;
      if (value < 0) return value;
      a[call.result_argument] = static_cast<uint64_t>(value);
    }
    if (call.number == SYS_openat) return Open(a);
    const int number = static_cast<int>(a[0]);
    if (!files.contains(number)) return call.number == SYS_umask ? 1 : -EBADF;
    switch (call.number) {
      case SYS_close:
        return files.erase(number) == 1 ? 0 : -EBADF;
      case SYS_read:
        return Read(number, a);
      case SYS_lseek:
        if (unseekable.contains(files[number])) return -ESPIPE;
        return static_cast<int64_t>(places_[number] = a[2] == SEEK_SET ? a[1] : places_[number] + a[1]);
      case SYS_getdents64:
        return List(number, a);
      default:
        return -ENOSYS;
    }
  }

  char* At(uint64_t address) { return reinterpret_cast<char*>(memory_.get() + (address - kAddress)); }

  void Touch(const std::string& path) {
    const std::lock_guard lock(mutex_);
    touched_.insert(path);
  }

  int64_t Open(const uint64_t (&a)[6]) {
    std::string path = At(a[1]);
    const auto folder = files.find(static_cast<int>(a[0]));
    if (!path.starts_with('/') && folder != files.end()) path = folder->second + "/" + path;
    if (path.ends_with('/')) path.pop_back();
    Touch(path);
    if (!contents.contains(path) && !folders.contains(path)) return -ENOENT;
    int number = GuestFiles::kFirst;
    while (files.contains(number)) ++number;
    if (number >= end_of_files) return -EMFILE;
    files[number] = path;
    places_[number] = 0;
    return number;
  }

  int64_t Read(int number, const uint64_t (&a)[6]) {
    const std::string path = files[number];
    Touch(path);
    std::string& content = contents[path];
    const std::string given = content.substr(std::min<uint64_t>(places_[number], content.size()), a[2]);
    std::memcpy(At(a[1]), given.data(), given.size());
    places_[number] += given.size();
    if (consumed.contains(path)) content.clear();
    return static_cast<int64_t>(given.size());
  }

  int64_t List(int number, const uint64_t (&a)[6]) {
    constexpr uint64_t kRecord = 32;
    const auto& entries = folders[files[number]];
    uint64_t given = 0;
    for (uint64_t& at = places_[number]; at < entries.size() && given + kRecord <= a[2]; ++at, given += kRecord) {
      char* entry = At(a[1]) + given;
      std::memset(entry, 0, kRecord);
      entry[16] = kRecord;
      entry[18] = static_cast<char>(entries[at].second);
      std::memcpy(entry + 19, entries[at].first.c_str(), entries[at].first.size());
    }
    return static_cast<int64_t>(given);
  }

  std::unique_ptr<uint8_t[]> memory_ = std::make_unique<uint8_t[]>(kSize);
  std::map<int, uint64_t> places_;
  std::mutex mutex_;
  std::set<std::string> touched_;
  std::string failure_;
};

/// Asks as a tool does, and leaves the other thread time.
class Tool {
 public:
  explicit Tool(GuestKernel* kernel) : kernel_(*kernel) {}

  uint64_t Open(const std::string& path, uint64_t folder = kHere) {
    return static_cast<uint64_t>(Ask({{SYS_openat, {folder, Text(path), 0, 0}}}).front().value);
  }
  uint64_t List(const std::string& path) {
    return static_cast<uint64_t>(Ask({{SYS_openat, {kHere, Text(path), O_DIRECTORY, 0}},
                                      {SYS_getdents64, {0, out(), 4096}, 0, 0},
                                      {SYS_getdents64, {0, out() + 4096, 4096}, 0, 0}})
                                     .front()
                                     .value);
  }
  std::string Read(uint64_t file, uint64_t size = 100) {
    const int64_t length = Ask({{SYS_read, {file, out(), size}}}).front().value;
    if (length < 0) return "an error";
    return {reinterpret_cast<char*>(kernel_.window().host) + kOut, static_cast<size_t>(length)};
  }
  void Close(uint64_t file) { Ask({{SYS_close, {file}}}); }

  std::vector<GuestKernel::Answer> Ask(const std::vector<GuestCall>& calls) {
    std::vector<GuestKernel::Answer> answers(calls.size());
    kernel_.Run(calls.data(), calls.size(), 1 << 16, answers.data());
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    return answers;
  }
  uint64_t Text(const std::string& path) {
    std::memcpy(kernel_.window().host, path.c_str(), path.size() + 1);
    return kernel_.window().guest;
  }
  uint64_t out() const { return kernel_.window().guest + kOut; }

 private:
  static constexpr uint64_t kOut = 8192;

  GuestKernel& kernel_;
};

std::vector<std::string> Numbers(int first, int count) {
  std::vector<std::string> names;
  for (int i = first; i < first + count; ++i) names.push_back(std::to_string(i));
  return names;
}

constexpr uint8_t kFolder = 4, kFile = 8, kLink = 10;  // DT_DIR, DT_REG, DT_LNK

}  // namespace

TEST("foresight reads no file that it could not move back") {
  LoggedKernel kernel;
  const std::vector<std::string> names = Numbers(0, 8);
  kernel.AddFolder("/sys/a", names, kFile);
  for (const std::string& name : names) {
    kernel.contents["/sys/a/" + name] = "value " + name;
    kernel.unseekable.insert("/sys/a/" + name);
  }
  Foresight foresight(&kernel, IsReadAheadHere, nullptr, 0);
  Tool tool(&foresight);
  tool.Close(tool.List("/sys/a"));
  for (const std::string& name : names) {
    const uint64_t file = tool.Open("/sys/a/" + name);
    CHECK_EQUAL(tool.Ask({{SYS_lseek, {file, 0, SEEK_CUR}}}).front().value, -ESPIPE);
    CHECK_IN(name, tool.Read(file) == "value " + name);
    tool.Close(file);
  }
}

TEST("foresight opens nothing behind a process's links, however their folder was called") {
  LoggedKernel kernel;
  kernel.AddFolder("/proc/a/fd", Numbers(0, 8), kLink);
  for (const std::string& name : Numbers(0, 8)) kernel.contents["/proc/a/fd/" + name] = "in a pipe";
  Foresight foresight(&kernel, IsReadAheadHere, nullptr, 0);
  Tool tool(&foresight);
  const uint64_t folder = tool.List("/proc/a/fd/");
  for (const std::string& name : Numbers(0, 3)) {
    const uint64_t file = tool.Open(name, folder);
    tool.Read(file);
    tool.Close(file);
  }
  CHECK(!kernel.WasTouched("/proc/a/fd/4"));
}

TEST("foresight opens nothing behind a process's links after another entry of its folder") {
  const auto goes_on = [] {
    LoggedKernel kernel;
    kernel.AddFolder("/proc/a", {"x", "task", "fd", "net"}, kFolder);
    for (const std::string name : {"x", "task", "fd", "net"}) kernel.contents["/proc/a/" + name + "/1"] = "content";
    Foresight foresight(&kernel, IsReadAheadHere, nullptr, 0);
    Tool tool(&foresight);
    tool.List("/proc/a");
    for (const std::string name : {"x", "task"}) {
      const uint64_t file = tool.Open("/proc/a/" + name + "/1");
      tool.Read(file);
      tool.Close(file);
    }
    CHECK(!kernel.WasTouched("/proc/a/fd/1"));
    return kernel.WasTouched("/proc/a/net/1");
  };
  CHECK(IsSoWhereLeftAlone(goes_on));
}

TEST("foresight consumes nothing") {
  LoggedKernel kernel;
  const std::vector<std::string> names = {"keys", "misc", "kmsg"};
  kernel.AddFolder("/proc", names, kFile);
  for (const std::string& name : names) kernel.contents["/proc/" + name] = "content of " + name;
  kernel.consumed.insert("/proc/kmsg");
  Foresight foresight(&kernel, IsReadAheadHere, nullptr, 0);
  Tool tool(&foresight);
  tool.Close(tool.List("/proc"));
  for (const std::string& name : names) {
    const uint64_t file = tool.Open("/proc/" + name);
    // What drops all that was asked ahead.
    if (name == "misc") tool.Ask({{SYS_umask, {}}});
    CHECK_IN(name, tool.Read(file) == "content of " + name);
    tool.Close(file);
  }
}

namespace {

/// Two runs of the same command line on guests of their own. Returns whether the second began as the first did.
bool BeginsAsBefore(bool closes_early) {
  std::shared_ptr<const PastRun> past;
  bool began = false;
  for (const bool is_first : {true, false}) {
    LoggedKernel kernel;
    // The entries are others than then, and one is the same.
    const std::vector<std::string> names = Numbers(is_first ? 1 : 100, 8);
    kernel.AddFolder("/proc", {"1"}, kFolder);
    kernel.AddFolder("/proc", names, kFolder);
    for (const std::string& name : names) kernel.contents["/proc/" + name + "/stat"] = "of " + name;
    for (const std::string name : {"/proc/uptime", "/etc/passwd"}) kernel.contents[name] = "content";
    Foresight foresight(&kernel, IsReadAheadHere, past, 0);
    foresight.Begin();
    if (!is_first) std::this_thread::sleep_for(std::chrono::milliseconds(300));
    const bool touched = kernel.WasTouched("/proc/uptime") && kernel.WasTouched("/proc/103/stat");
    CHECK(!is_first || !touched);
    CHECK(!kernel.WasTouched("/etc/passwd"));
    Tool tool(&foresight);
    for (const std::string path : {"/etc/passwd", "/proc/uptime"}) {
      const uint64_t file = tool.Open(path);
      CHECK(tool.Read(file) == "content");
      tool.Close(file);
    }
    const uint64_t folder = tool.List("/proc");
    if (closes_early) tool.Close(folder);
    for (const auto& [name, type] : kernel.folders["/proc"]) {
      const uint64_t file = tool.Open("/proc/" + name + "/stat");
      if (!kernel.contents.contains("/proc/" + name + "/stat")) continue;
      CHECK_IN(name, tool.Read(file) == "of " + name);
      tool.Close(file);
    }
    if (!closes_early) tool.Close(folder);
    began = touched && foresight.foreseen() > 10;
    past = std::make_shared<const PastRun>(foresight.Remember());
  }
  return began;
}

}  // namespace

TEST("foresight begins as the run before did") {
  // Some programs close a directory before they go through it.
  for (const bool closes_early : {false, true}) {
    CHECK_IN(std::to_string(closes_early), IsSoWhereLeftAlone([&] { return BeginsAsBefore(closes_early); }));
  }
}

TEST("foresight opens nothing at first for who looks at what processes have open") {
  std::shared_ptr<const PastRun> past;
  for (const std::string folder : {"/proc/1/task", "/proc/1/fd/"}) {
    LoggedKernel kernel;
    kernel.contents["/proc/uptime"] = "content";
    kernel.AddFolder("/proc/1/task", {"1"}, kFolder);
    kernel.AddFolder("/proc/1/fd", {"0"}, kLink);
    Foresight foresight(&kernel, IsReadAheadHere, past, 0);
    Tool tool(&foresight);
    tool.Close(tool.Open("/proc/uptime"));
    tool.Close(tool.List(folder));
    past = std::make_shared<const PastRun>(foresight.Remember());
    CHECK_EQUAL(past->opening.empty(), folder != "/proc/1/task");
  }
}

TEST("foresight takes no file from the tool, whatever is asked in the same list") {
  LoggedKernel kernel;
  kernel.AddFolder("/proc/a", Numbers(0, 60), kFile);
  for (const std::string& name : Numbers(0, 60)) kernel.contents["/proc/a/" + name] = "content";
  kernel.contents["/other"] = "another";
  kernel.end_of_files = GuestFiles::kFirst + 7;
  Foresight foresight(&kernel, IsReadAheadHere, nullptr, 0);
  Tool tool(&foresight);
  tool.Close(tool.List("/proc/a"));
  uint64_t last = 0;
  for (const std::string& name : Numbers(0, 4)) {
    last = tool.Open("/proc/a/" + name);
    tool.Read(last, 3);
  }
  // As where the file that was read last stands further on than the tool knows.
  const auto answers = tool.Ask({{SYS_lseek, {last, static_cast<uint64_t>(-1), SEEK_CUR}},
                                 {SYS_openat, {kHere, tool.Text("/other"), 0, 0}},
                                 {SYS_read, {0, tool.out(), 100}, 0, 1}});
  CHECK(answers[1].value >= 0);
}

TEST("foresight uses up none of the numbers that a tool's files may have") {
  LoggedKernel kernel;
  kernel.AddFolder("/proc/a", Numbers(1000, 120), kFile);
  for (const std::string& name : Numbers(1000, 120)) kernel.contents["/proc/a/" + name] = "content";
  kernel.contents["/other"] = "another";
  for (int i = GuestFiles::kFirst; i < 1000; ++i) kernel.files[i] = "/other";
  Foresight foresight(&kernel, IsReadAheadHere, nullptr, 0);
  Tool tool(&foresight);
  tool.Close(tool.List("/proc/a"));
  for (const std::string& name : Numbers(1000, 16)) CHECK(std::to_string(tool.Open("/proc/a/" + name)) == name);
  CHECK(tool.Open("/other") < static_cast<uint64_t>(GuestFiles::kEnd));
}

}  // namespace penumbra::test
