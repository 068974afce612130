#include "redirect/tool_process.h"

#include <dirent.h>
#include <elf.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "redirect/clock_page.h"

namespace penumbra {

namespace {

constexpr size_t kMostText = 256 << 10;

std::string ReadAll(int folder, const char* name) {
  std::string text;
  const int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char piece[4096];
  for (ssize_t got; text.size() < kMostText && (got = read(fd, piece, sizeof piece)) > 0;) text.append(piece, got);
  close(fd);
  return text;
}

/// The number after `label` in a file like /proc/PID/status; -1 when it is not there.
long Field(const std::string& text, const char* label) {
  const size_t at = text.find(label);
  return at == std::string::npos ? -1 : std::strtol(text.c_str() + at + std::strlen(label), nullptr, 10);
}

int OpenFolder(pid_t pid) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d", pid);
  return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/// Of a thread, in its process's folder.
std::string TaskPath(pid_t tid) { return "task/" + std::to_string(tid); }

std::vector<pid_t> ThreadsOf(int process) {
  std::vector<pid_t> threads;
  const int fd = openat(process, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* list = fd < 0 ? nullptr : fdopendir(fd);
  if (list == nullptr) {
    if (fd >= 0) close(fd);
    return threads;
  }
  while (const dirent* entry = readdir(list)) {
    if (const int tid = std::atoi(entry->d_name); tid > 0) threads.push_back(tid);
  }
  closedir(list);
  return threads;
}

/// Those that this thread of a process has started, or inherited.
std::vector<pid_t> ChildrenOf(int process, pid_t thread) {
  const std::string list = ReadAll(process, (TaskPath(thread) + "/children").c_str());
  std::vector<pid_t> children;
  char* end;
  for (const char* at = list.c_str();; at = end) {
    const long pid = std::strtol(at, &end, 10);
    if (end == at) return children;
    children.push_back(static_cast<pid_t>(pid));
  }
}

struct Auxiliary {
  uint64_t loader = 0;
  uint64_t clock_page = 0;
};

Auxiliary ReadAuxiliary(int folder) {
  const std::string bytes = ReadAll(folder, "auxv");
  Auxiliary found;
  for (size_t at = 0; at + sizeof(Elf64_auxv_t) <= bytes.size(); at += sizeof(Elf64_auxv_t)) {
    Elf64_auxv_t entry;
    std::memcpy(&entry, bytes.data() + at, sizeof entry);
    if (entry.a_type == AT_BASE) found.loader = entry.a_un.a_val;
    if (entry.a_type == AT_SYSINFO_EHDR) found.clock_page = entry.a_un.a_val;
  }
  return found;
}

/// Where the file that is mapped at `base` ends: the last of the neighbouring mappings of the same file.
uint64_t EndOfFileMappedAt(const std::string& maps, uint64_t base) {
  uint64_t end = 0;
  std::string file;
  for (size_t line = 0; line < maps.size();) {
    size_t next = maps.find('\n', line);
    if (next == std::string::npos) next = maps.size();
    unsigned long from = 0, to = 0;
    const std::string text = maps.substr(line, next - line);
    const size_t path = text.find('/');
    if (std::sscanf(text.c_str(), "%lx-%lx", &from, &to) == 2 && path != std::string::npos) {
      if (from == base) file = text.substr(path);
      if (!file.empty() && text.compare(path, std::string::npos, file) == 0) end = to;
    }
    line = next + 1;
  }
  return end;
}

bool HasEnded(int pidfd) {
  pollfd watched = {pidfd, POLLIN, 0};
  return poll(&watched, 1, 0) > 0;
}

/// Drops the handlers of signals that are not caught: a program that is executed begins with none.
void DropUncaught(int folder, std::map<int, uint64_t>* handlers) {
  constexpr std::string_view kLabel = "\nSigCgt:";
  const std::string status = ReadAll(folder, "status");
  const size_t at = status.find(kLabel);
  if (at == std::string::npos) return;
  const uint64_t caught = std::strtoull(status.c_str() + at + kLabel.size(), nullptr, 16);
  std::erase_if(*handlers, [&](const auto& entry) {
    const int signal = entry.first;
    return signal < 1 || signal > 64 || (caught >> (signal - 1) & 1) == 0;
  });
}

}  // namespace

ToolProcess::~ToolProcess() {
  if (folder >= 0) close(folder);
  if (pidfd >= 0) close(pidfd);
}

pid_t ParentOf(pid_t pid) {
  const int folder = OpenFolder(pid);
  if (folder < 0) return -1;
  const std::string status = ReadAll(folder, "status");
  close(folder);
  return static_cast<pid_t>(Field(status, "\nPPid:"));
}

ToolProcess* ToolProcesses::Find(pid_t tid) {
  const auto known = threads_.find(tid);
  if (known != threads_.end()) return known->second;
  DropEnded();
  // Its first call, after it was adopted.
  ToolProcess* process = WithPid(tid);
  if (process != nullptr) return threads_[tid] = process;
  const int folder = OpenFolder(tid);
  if (folder < 0) return nullptr;
  const std::string status = ReadAll(folder, "status");
  close(folder);
  const long pid = Field(status, "\nTgid:");
  if (pid <= 0) return nullptr;
  process = WithPid(static_cast<pid_t>(pid));
  if (process == nullptr) {
    ToolProcess* parent = WithPid(static_cast<pid_t>(Field(status, "\nPPid:")));
    // The parent may have ended since.
    if (parent == nullptr) DropEnded();
    process = WithPid(static_cast<pid_t>(pid));
    if (process == nullptr) process = Adopt(static_cast<pid_t>(pid), parent);
  }
  if (process != nullptr) threads_[tid] = process;
  return process;
}

void ToolProcesses::Forget(pid_t tid) {
  const auto known = threads_.find(tid);
  if (known == threads_.end()) return;
  const ToolProcess* process = known->second;
  threads_.erase(known);
  if (process->confirmed) return;
  const bool unused =
      std::none_of(threads_.begin(), threads_.end(), [&](const auto& entry) { return entry.second == process; });
  if (unused) processes_.erase(process->pid);
}

ToolProcess* ToolProcesses::WithPid(pid_t pid) {
  const auto known = processes_.find(pid);
  return known == processes_.end() ? nullptr : known->second.get();
}

ToolProcess* ToolProcesses::Adopt(pid_t pid, ToolProcess* parent) {
  auto process = std::make_unique<ToolProcess>();
  process->pid = pid;
  process->folder = OpenFolder(pid);
  process->pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  // One that nobody has waited for yet is still listed.
  if (process->folder < 0 || process->pidfd < 0 || HasEnded(process->pidfd)) return nullptr;
  if (parent != nullptr) {
    process->cwd = parent->cwd;
    process->script = parent->script;
    process->breaking_handlers = parent->breaking_handlers;
    if (parent->unknown_children > 0) --parent->unknown_children;
  }
  ToolProcess* adopted = process.get();
  processes_[pid] = std::move(process);
  return adopted;
}

void ToolProcesses::AdoptChildren(ToolProcess* parent) {
  const std::vector<pid_t> threads = ThreadsOf(parent->folder);
  for (const pid_t thread : threads) {
    for (const pid_t child : ChildrenOf(parent->folder, thread)) {
      if (WithPid(child) == nullptr) Adopt(child, parent);
    }
  }
  // The only thread is not on its way to another child.
  if (threads.size() == 1) parent->unknown_children = 0;
}

void ToolProcesses::NoteExecuted(ToolProcess* process, pid_t tid) {
  // The first thread of a program has the process's number, whichever thread executed it.
  const auto is_over = [&](pid_t thread) {
    return thread == tid || faccessat(process->folder, TaskPath(thread).c_str(), F_OK, 0) != 0;
  };
  if (std::erase_if(process->executing, is_over) == 0) return;
  process->prepared = false;
  // The others have ended, or are found again.
  std::erase_if(threads_, [&](const auto& entry) { return entry.second == process && entry.first != tid; });
}

bool ToolProcesses::Prepare(ToolProcess* process, pid_t tid) {
  if (tid == process->pid) return PrepareBy(process, process->folder);
  // The first thread may have ended, and the process's own folder then shows nothing.
  const int folder = openat(process->folder, TaskPath(tid).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return false;
  const bool prepared = PrepareBy(process, folder);
  close(folder);
  return prepared;
}

bool ToolProcesses::PrepareBy(ToolProcess* process, int folder) {
  if (!process->memory.Open(folder)) return false;
  const Auxiliary auxiliary = ReadAuxiliary(folder);
  process->loader_start = process->loader_end = 0;
  if (auxiliary.loader != 0) {
    const uint64_t end = EndOfFileMappedAt(ReadAll(folder, "maps"), auxiliary.loader);
    if (end > auxiliary.loader) {
      process->loader_start = auxiliary.loader;
      process->loader_end = end;
    }
  }
  if (auxiliary.clock_page != 0 && !RedirectClockPage(process->memory, auxiliary.clock_page)) return false;
  char path[4096];
  const ssize_t length = readlinkat(folder, "exe", path, sizeof path);
  process->program.assign(path, length > 0 ? static_cast<size_t>(length) : 0);
  const std::string name = process->program.substr(process->program.rfind('/') + 1);
  process->kinds = 0;
  for (const ToolKind& kind : policy_.tool_kinds) {
    if (fnmatch(kind.pattern.c_str(), name.c_str(), 0) == 0) process->kinds |= kind.kind;
  }
  if (!process->breaking_handlers.empty()) DropUncaught(folder, &process->breaking_handlers);
  process->prepared = true;
  return true;
}

void ToolProcesses::TakeEnded(Ended* ended) {
  std::vector<pollfd> watched;
  std::vector<pid_t> pids;
  for (const auto& [pid, process] : processes_) {
    watched.push_back({process->pidfd, POLLIN, 0});
    pids.push_back(pid);
  }
  if (watched.empty() || poll(watched.data(), watched.size(), 0) <= 0) return;
  for (size_t i = 0; i < watched.size(); ++i) {
    if (watched[i].revents == 0) continue;
    const auto known = processes_.find(pids[i]);
    const ToolProcess* process = known->second.get();
    std::erase_if(threads_, [&](const auto& entry) { return entry.second == process; });
    ended->push_back(std::move(known->second));
    processes_.erase(known);
  }
}

void ToolProcesses::DropEnded() {
  const auto has_unknown = [](const auto& process) { return process->unknown_children > 0; };
  Ended ended;
  TakeEnded(&ended);
  if (std::none_of(ended.begin(), ended.end(), has_unknown)) return;
  const int folder = OpenFolder(launcher_);
  if (folder < 0) return;
  const std::vector<pid_t> children = ChildrenOf(folder, launcher_);
  close(folder);
  // Some of them may be of one that has ended just now.
  TakeEnded(&ended);
  std::erase_if(ended, [&](const auto& process) { return !has_unknown(process); });
  for (const pid_t child : children) {
    if (WithPid(child) != nullptr) continue;
    // Who its parent was is no longer to be seen: of several it is the one that began last before it.
    const auto parent = std::max_element(ended.begin(), ended.end(), [&](const auto& a, const auto& b) {
      return std::pair(a->pid < child, a->pid) < std::pair(b->pid < child, b->pid);
    });
    if (parent == ended.end()) return;
    Adopt(child, parent->get());
    if (!has_unknown(*parent)) ended.erase(parent);
  }
}

}  // namespace penumbra
