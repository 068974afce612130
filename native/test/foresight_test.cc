// Foresight: who asks must not be able to tell. The truth is the same kernel asked without it.
#include "redirect/foresight.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "test/check.h"
#include "test/hostile_kernel.h"

namespace penumbra::test {

namespace {

constexpr uint64_t kHere = static_cast<uint64_t>(static_cast<int64_t>(AT_FDCWD));
constexpr int kFirstFile = 500, kEndOfFiles = 540;
constexpr uint64_t kStatBytes = 144;

struct Node {
  std::string content;               ///< of a file
  std::vector<std::string> entries;  ///< of a folder
  bool is_folder = false;
};
using Tree = std::map<std::string, Node>;

/// What Program asks in one list.
bool IsReadAheadHere(const char* path, uint64_t) { return !std::string_view(path).ends_with("/status"); }

/// Two levels, with files and folders mixed, as in /proc.
Tree MakeTree(Random* random) {
  Tree tree;
  for (const std::string root : {"/proc/a", "/proc/b", "/elsewhere"}) {
    Node& folder = tree[root];
    folder.is_folder = true;
    const uint64_t entries = 5 + random->Below(60);
    for (uint64_t i = 0; i < entries; ++i) {
      const std::string name = std::to_string(i);
      folder.entries.push_back(name);
      Node& entry = tree[root + "/" + name];
      entry.is_folder = random->Chance(60);
      entry.content = "content of " + root + name;
      if (!entry.is_folder) continue;
      for (const std::string below : {"stat", "status", "task", "cmdline"}) {
        entry.entries.push_back(below);
        tree[root + "/" + name + "/" + below].content = std::string(random->Below(300), 'x') + root + name + below;
      }
    }
  }
  return tree;
}

/// A kernel of a few calls, of which some never return or would sleep. Files get the lowest number that is free.
class MadeKernel final : public GuestKernel {
 public:
  explicit MadeKernel(const Tree& tree) : tree_(tree), memory_(std::make_unique<uint8_t[]>(kSize)) {}

  GuestWindow window() const override { return {memory_.get(), kAddress, kSize}; }
  const std::string& failure() const override { return failure_; }

  size_t Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) override {
    CHECK(!inside_.exchange(true));
    size_t done = 0;
    while (done < count) {
      answers[done] = Call(calls[done], answers);
      if (answers[done++].failed) break;
    }
    inside_ = false;
    return done;
  }

  size_t open_files() const { return files_.size(); }

 private:
  static constexpr uint64_t kSize = 1 << 20, kAddress = 0x640000000000;

  struct File {
    std::string path;
    uint64_t at = 0;
  };

  Answer Call(const GuestCall& call, const Answer* before) {
    uint64_t a[6];
    std::copy(std::begin(call.arguments), std::end(call.arguments), a);
    if (call.result_argument != GuestCall::kNone) {
      const int64_t value = before[call.result_of].value;
      if (value < 0) return {value};
      a[call.result_argument] = static_cast<uint64_t>(value);
    }
    switch (call.number) {
      case SYS_openat:
        return Open(PathOf(a[0], a[1]));
      case SYS_newfstatat:
        return Status(PathOf(a[0], a[1]), a[2]);
      case SYS_chdir:
        cwd_ = Text(a[0]);
        return {0};
      case SYS_umask:
        return {static_cast<int64_t>(cwd_.size())};
      default:
        break;
    }
    const auto file = files_.find(static_cast<int>(a[0]));
    if (file == files_.end()) return {-EBADF};
    switch (call.number) {
      case SYS_close:
        files_.erase(file);
        return {0};
      case SYS_fstat:
        return Status(file->second.path, a[1]);
      case SYS_read:
        return Read(&file->second, a[1], a[2]);
      case SYS_lseek:
        file->second.at += a[1];
        return {static_cast<int64_t>(file->second.at)};
      case SYS_getdents64:
        return List(&file->second, a[1], a[2]);
      default:
        return {-ENOSYS};
    }
  }

  uint8_t* At(uint64_t address) { return memory_.get() + (address - kAddress); }
  const char* Text(uint64_t address) { return reinterpret_cast<const char*>(At(address)); }

  std::string PathOf(uint64_t folder, uint64_t text) {
    const std::string path = Text(text);
    if (path.starts_with('/')) return path;
    if (folder == kHere) return cwd_ + "/" + path;
    const auto file = files_.find(static_cast<int>(folder));
    return file == files_.end() ? "" : path.empty() ? file->second.path : file->second.path + "/" + path;
  }

  Answer Open(const std::string& path) {
    if (!tree_.contains(path)) return {-ENOENT};
    if (std::hash<std::string>()(path) % 1999 == 0) return Fail(path);
    int number = kFirstFile;
    while (files_.contains(number)) ++number;
    if (number >= kEndOfFiles) return {-EMFILE};
    files_[number] = {path};
    return {number};
  }

  Answer Fail(const std::string& path) {
    failure_ = "no " + path;
    return {0, false, true};
  }

  Answer Status(const std::string& path, uint64_t out) {
    const auto node = tree_.find(path);
    if (node == tree_.end()) return {-ENOENT};
    uint64_t words[kStatBytes / 8];
    for (uint64_t& word : words) word = std::hash<std::string>()(path) + node->second.content.size();
    std::memcpy(At(out), words, sizeof words);
    return {0};
  }

  Answer Read(File* file, uint64_t out, uint64_t size) {
    const std::string& content = tree_.at(file->path).content;
    if (std::hash<std::string>()(file->path) % 499 == 0) return {-EAGAIN, true};
    const uint64_t given = std::min(size, content.size() - file->at);
    std::memcpy(At(out), content.data() + file->at, given);
    file->at += given;
    return {static_cast<int64_t>(given)};
  }

  Answer List(File* file, uint64_t out, uint64_t size) {
    constexpr uint64_t kRecord = 32;
    const std::vector<std::string>& entries = tree_.at(file->path).entries;
    uint64_t given = 0;
    for (; file->at < entries.size() && given + kRecord <= size; ++file->at, given += kRecord) {
      uint8_t* entry = At(out) + given;
      std::memset(entry, 0, kRecord);
      entry[16] = kRecord;
      entry[18] = tree_.at(file->path + "/" + entries[file->at]).is_folder ? 4 : 8;  // DT_DIR, DT_REG
      std::memcpy(entry + 19, entries[file->at].c_str(), entries[file->at].size());
    }
    return {static_cast<int64_t>(given)};
  }

  const Tree& tree_;
  std::unique_ptr<uint8_t[]> memory_;
  std::map<int, File> files_;
  std::string cwd_ = "/";
  std::string failure_;
  std::atomic<bool> inside_ = false;
};

/// Asks the same of two kernels, whose files may have different numbers.
class Asker {
 public:
  Asker(GuestKernel* made, GuestKernel* truth, Random* random) : worlds_{{made, {}}, {truth, {}}}, random_(random) {}

  struct Step {
    uint32_t number;
    int file;          ///< a handle, or -1: AT_FDCWD
    std::string text;  ///< a path
    uint64_t room;
  };

  /// One list: an open is the first, and the others are about it. Returns the new handle, or -1.
  int Ask(const std::vector<Step>& steps) {
    std::vector<GuestKernel::Answer> answers[2];
    std::vector<std::vector<uint8_t>> filled[2];
    std::string failures[2];
    for (int w = 0; w < 2; ++w) RunList(w, steps, &answers[w], &filled[w], &failures[w]);
    closing_.clear();
    ++lists_;
    // Programs do something with what they are told.
    if (random_->Chance(50)) std::this_thread::sleep_for(std::chrono::microseconds(random_->Below(50)));
    CHECK_EQUAL(answers[0].size(), answers[1].size());
    const bool opens = steps.front().number == SYS_openat;
    for (size_t i = 0; i < answers[0].size(); ++i) {
      const GuestKernel::Answer &made = answers[0][i], &truth = answers[1][i];
      const std::string where = std::to_string(steps[i].number) + " " + steps[i].text;
      if (!opens || i > 0 || truth.value < 0) CHECK_EQUAL_IN(where, made.value, truth.value);
      CHECK_EQUAL_IN(where, made.failed, truth.failed);
      CHECK_EQUAL_IN(where, made.blocked, truth.blocked);
      CHECK_IN(where, filled[0][i] == filled[1][i]);
    }
    CHECK(failures[0] == failures[1]);
    if (!opens || answers[1][0].failed || answers[1][0].value < 0) return -1;
    const int handle = next_++;
    for (int w = 0; w < 2; ++w) {
      for (const auto& [other, file] : worlds_[w].files) CHECK(file != answers[w][0].value);
      worlds_[w].files[handle] = answers[w][0].value;
    }
    return handle;
  }

  void Close(int handle) {
    if (handle >= 0) closing_.push_back(handle);
    if (closing_.size() >= 8 || random_->Chance(1)) Ask({{SYS_umask, -1, "", 0}});
  }

  uint64_t lists() const { return lists_; }

 private:
  struct World {
    GuestKernel* kernel;
    std::map<int, int64_t> files;
  };

  void RunList(int w, const std::vector<Step>& steps, std::vector<GuestKernel::Answer>* answers,
               std::vector<std::vector<uint8_t>>* filled, std::string* failure) {
    World& world = worlds_[w];
    const GuestWindow window = world.kernel->window();
    GuestCall list[GuestKernel::kMostCalls];
    size_t count = 0;
    for (const int handle : closing_) {
      list[count++] = {SYS_close, {static_cast<uint64_t>(world.files.at(handle))}};
      world.files.erase(handle);
    }
    const size_t before = count;
    uint64_t taken = 0;
    std::vector<uint64_t> outs;
    for (const Step& step : steps) {
      const bool is_opened = step.file < 0 && &step != &steps.front();
      GuestCall& call = list[count++] = {step.number};
      size_t argument = 0;
      if (step.number != SYS_chdir && step.number != SYS_umask) {
        call.arguments[argument++] = step.file < 0 ? kHere : static_cast<uint64_t>(world.files.at(step.file));
        if (is_opened) {
          call.result_argument = 0;
          call.result_of = static_cast<uint8_t>(before);
        }
      }
      const bool has_text = step.number == SYS_openat || step.number == SYS_newfstatat || step.number == SYS_chdir;
      if (has_text) {
        std::memcpy(window.host + taken, step.text.c_str(), step.text.size() + 1);
        call.arguments[argument++] = window.guest + taken;
        taken += 4096;
      }
      outs.push_back(taken);
      if (step.room > 0) {
        std::memset(window.host + taken, 0, step.room);
        call.arguments[argument++] = window.guest + taken;
        if (step.number == SYS_read || step.number == SYS_getdents64) call.arguments[argument] = step.room;
        taken += step.room;
      }
    }
    GuestKernel::Answer given[GuestKernel::kMostCalls];
    const size_t done = world.kernel->Run(list, count, taken, given);
    for (size_t i = before; i < done; ++i) {
      answers->push_back(given[i]);
      const uint8_t* out = window.host + outs[i - before];
      filled->emplace_back(out, out + steps[i - before].room);
      if (given[i].failed) *failure = world.kernel->failure();
    }
  }

  World worlds_[2];
  Random* random_;
  std::vector<int> closing_;
  int next_ = 0;
  uint64_t lists_ = 0;
};

/// Goes through the folders as programs do, and now and then as none does.
class Program {
 public:
  Program(Asker* asker, const Tree& tree, Random* random) : asker_(*asker), tree_(tree), random_(*random) {}

  void Visit(const std::string& folder) {
    const int file =
        asker_.Ask({{SYS_openat, -1, folder, 0}, {SYS_getdents64, -1, "", 4096}, {SYS_getdents64, -1, "", 4096}});
    if (file < 0) return;
    by_number_ = random_.Chance(50);
    habits_.clear();
    for (uint64_t i = 1 + random_.Below(5); i > 0; --i) habits_.push_back(random_.Below(5));
    only_folders_ = random_.Chance(50);
    const bool closes_early = !by_number_ && random_.Chance(30);
    if (closes_early) asker_.Close(file);
    for (const std::string& name : tree_.at(folder).entries) {
      if (only_folders_ && !tree_.at(folder + "/" + name).is_folder) continue;
      if (random_.Chance(2)) continue;
      if (random_.Below(200) == 0) asker_.Ask({{SYS_chdir, -1, folder, 0}});
      if (random_.Chance(1)) break;
      AskAbout(file, folder, name);
    }
    if (!closes_early) asker_.Close(file);
  }

 private:
  void AskAbout(int folder_file, const std::string& folder, const std::string& name) {
    const int base = by_number_ ? folder_file : -1;
    const std::string path = by_number_ ? name : folder + "/" + name;
    const bool is_folder = tree_.at(folder + "/" + name).is_folder;
    for (const uint64_t habit : habits_) {
      if (random_.Below(400) == 0) asker_.Ask({{SYS_umask, -1, "", 0}});
      if (habit == 0 || !is_folder) {
        asker_.Ask({{SYS_newfstatat, base, path, kStatBytes}});
      } else if (habit == 1) {
        const int file = asker_.Ask({{SYS_openat, base, path + "/stat", 0}, {SYS_read, -1, "", 200}});
        asker_.Close(file);
      } else if (habit == 2) {
        const int file = asker_.Ask({{SYS_openat, base, path + "/status", 0}});
        if (file < 0) continue;
        for (uint64_t i = 1 + random_.Below(2); i > 0; --i)
          asker_.Ask({{SYS_read, file, "", random_.Chance(90) ? 100u : 30u}});
        asker_.Ask({{SYS_fstat, file, "", kStatBytes}});
        asker_.Close(file);
      } else if (habit == 3) {
        const int inner = asker_.Ask({{SYS_openat, base, path, 0}, {SYS_getdents64, -1, "", 4096}});
        if (inner < 0) continue;
        for (const std::string below : {"task", "cmdline", "nothing"}) {
          asker_.Ask({{SYS_newfstatat, inner, below, kStatBytes}});
        }
        asker_.Close(inner);
      } else {
        asker_.Ask({{SYS_openat, base, path + "/nothing", 0}, {SYS_read, -1, "", 100}});
      }
    }
  }

  Asker& asker_;
  const Tree& tree_;
  Random& random_;
  std::vector<uint64_t> habits_;
  bool by_number_ = false, only_folders_ = false;
};

}  // namespace

TEST("what was foreseen is what would have been answered") {
  constexpr uint64_t kCases = 60;
  Random random;
  uint64_t lists = 0, foreseen = 0;
  std::shared_ptr<const PastRun> past;
  Random before = random;
  Tree tree;
  for (uint64_t i = 0; i < kCases * CaseFactor(); ++i) {
    // The run that was before is like this one, or like it in another guest, or not at all.
    const bool is_same = i % 3 != 0;
    if (!is_same || i % 3 == 2) tree = MakeTree(&random);
    Random now = is_same ? before : random;
    before = now;
    MadeKernel made(tree), truth(tree);
    {
      Foresight foresight(&made, IsReadAheadHere, past, 0);
      foresight.Begin();
      Asker asker(&foresight, &truth, &now);
      Program program(&asker, tree, &now);
      for (uint64_t visits = 1 + now.Below(8); visits > 0; --visits) {
        const char* const roots[] = {"/proc/a", "/proc/b", "/elsewhere"};
        program.Visit(roots[now.Below(std::size(roots))]);
        if (now.Chance(20)) foresight.Rest();
      }
      lists += asker.lists();
      foreseen += foresight.foreseen();
      past = std::make_shared<const PastRun>(foresight.Remember());
    }
    CHECK(made.open_files() < truth.open_files() + 300);
    if (!is_same) random = now;
  }
  if (std::thread::hardware_concurrency() > 1) CHECK(foreseen > lists / 100);
}

TEST("foresight survives a guest that answers at random") {
  constexpr uint64_t kCases = 300;
  Random random, of_guest;
  std::shared_ptr<const PastRun> past;
  for (uint64_t i = 0; i < kCases * CaseFactor(); ++i) {
    HostileKernel kernel(&of_guest);
    Foresight foresight(&kernel, IsReadAheadHere, past, 0);
    foresight.Begin();
    const GuestWindow window = foresight.window();
    std::vector<uint8_t> copy;
    for (uint64_t k = 0; k < 40; ++k) {
      const std::string path = "/proc/" + std::string(1 + random.Below(3), 'n');
      std::memcpy(window.host, path.c_str(), path.size() + 1);
      const uint64_t out = window.guest + 4096;
      const uint64_t file = 500 + random.Below(4);
      const GuestCall lists[][3] = {
          {{SYS_openat, {kHere, window.guest, O_DIRECTORY, 0}},
           {SYS_getdents64, {0, out, 4096}, 0, 0},
           {SYS_getdents64, {0, out + 4096, 4096}, 0, 0}},
          {{SYS_newfstatat, {kHere, window.guest, out, 0}}, {SYS_fstat, {file, out}}, {SYS_read, {file, out, 100}}},
          {{SYS_close, {file}}, {SYS_openat, {kHere, window.guest, 0, 0}}, {SYS_read, {0, out, 200}, 0, 1}},
          {{SYS_readlinkat, {file, window.guest, out, 64}}, {SYS_uname, {out}}, {SYS_lseek, {file, 0, 0}}},
      };
      const GuestCall* calls = lists[random.Below(std::size(lists))];
      GuestKernel::Answer answers[3];
      const size_t done = foresight.Run(calls, 1 + random.Below(3), 8192 + 4096, answers);
      CHECK(done <= 3);
      // What a user has in its hands stays as it is, whatever the guest does meanwhile.
      copy.assign(window.host, window.host + 12288);
      foresight.Rest();
      CHECK(std::equal(copy.begin(), copy.end(), window.host));
    }
    past = std::make_shared<const PastRun>(foresight.Remember());
  }
}

}  // namespace penumbra::test
