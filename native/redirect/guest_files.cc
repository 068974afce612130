#include "redirect/guest_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

namespace penumbra {

namespace {

constexpr size_t kMostProcesses = 8192;
constexpr uint64_t kMostListed = 256 << 20;  // some eight million entries
constexpr char kNameFormat[] = "penumbra:%d:%llu";
constexpr char kLinkFormat[] = "/memfd:penumbra:%d:%llu (deleted)";

/// What a link in /proc/PID/fd leads to, if it is one of ours.
bool ReadPlaceholder(int folder, const char* link, int* guest_fd, uint64_t* serial) {
  char target[96];
  const ssize_t length = readlinkat(folder, link, target, sizeof target - 1);
  if (length <= 0) return false;
  target[length] = 0;
  unsigned long long number = 0;
  if (std::sscanf(target, kLinkFormat, guest_fd, &number) != 2) return false;
  *serial = number;
  return true;
}

int MakePlaceholder(int guest_fd, uint64_t serial) {
  char name[48];
  std::snprintf(name, sizeof name, kNameFormat, guest_fd, static_cast<unsigned long long>(serial));
  const int placeholder = memfd_create(name, MFD_CLOEXEC);
  return placeholder < 0 ? -errno : placeholder;
}

/// All processes below `root`, those included that have not asked for anything yet.
std::vector<pid_t> Descendants(pid_t root) {
  std::vector<pid_t> found;
  std::vector<pid_t> ahead = {root};
  while (!ahead.empty() && found.size() < kMostProcesses) {
    const std::string tasks = "/proc/" + std::to_string(ahead.back()) + "/task";
    ahead.pop_back();
    DIR* list = opendir(tasks.c_str());
    if (list == nullptr) continue;
    while (const dirent* entry = readdir(list)) {
      std::ifstream children(tasks + "/" + entry->d_name + "/children");
      for (pid_t pid; children >> pid;) {
        found.push_back(pid);
        ahead.push_back(pid);
      }
    }
    closedir(list);
  }
  return found;
}

void CollectPlaceholders(pid_t pid, std::set<std::pair<int, uint64_t>>* used) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  DIR* list = opendir(path.c_str());
  if (list == nullptr) return;
  while (const dirent* entry = readdir(list)) {
    int guest_fd = 0;
    uint64_t serial = 0;
    if (ReadPlaceholder(dirfd(list), entry->d_name, &guest_fd, &serial)) used->emplace(guest_fd, serial);
  }
  closedir(list);
}

}  // namespace

int GuestFiles::Add(int guest_fd, pid_t owner) {
  const int placeholder = MakePlaceholder(guest_fd, next_serial_);
  if (placeholder >= 0) files_[guest_fd] = GuestFile{next_serial_++, sharings_, owner};
  return placeholder;
}

int GuestFiles::MakeAnother(int guest_fd) {
  const GuestFile* file = Find(guest_fd);
  return file == nullptr ? -EBADF : MakePlaceholder(guest_fd, file->serial);
}

GuestFile* GuestFiles::Find(int guest_fd) {
  const auto found = files_.find(guest_fd);
  return found == files_.end() ? nullptr : &found->second;
}

void GuestFiles::AddReference(int guest_fd) {
  if (GuestFile* file = Find(guest_fd)) ++file->references;
}

bool GuestFiles::DropReference(int guest_fd) {
  GuestFile* file = Find(guest_fd);
  if (file == nullptr) return false;
  if (!IsShared(*file)) return --file->references == 0;
  NoteMaybeUnused(guest_fd);
  return false;
}

bool GuestFiles::NoteListed(int guest_fd, uint64_t bytes) {
  GuestFile* file = Find(guest_fd);
  return file == nullptr || (file->listed += bytes) <= kMostListed;
}

int GuestFiles::Resolve(ToolProcess* process, int fd) {
  if (fd < 0) return ToolProcess::kLocal;
  if (fd < ToolProcess::kMostCached && process->fds[fd] != ToolProcess::kUnknown) return process->fds[fd];
  char link[24];
  std::snprintf(link, sizeof link, "fd/%d", fd);
  int guest_fd = 0;
  uint64_t serial = 0;
  if (ReadPlaceholder(process->folder, link, &guest_fd, &serial)) {
    const GuestFile* file = Find(guest_fd);
    if (file != nullptr && file->serial == serial) {
      if (fd < ToolProcess::kMostCached) process->fds[fd] = static_cast<int16_t>(guest_fd);
      return guest_fd;
    }
  } else if (fd < ToolProcess::kMostCached && faccessat(process->folder, link, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
    process->fds[fd] = ToolProcess::kLocal;
  }
  return ToolProcess::kLocal;
}

void GuestFiles::NoteEndOfProcess() {
  for (const auto& [guest_fd, file] : files_) maybe_unused_.push_back(guest_fd);
}

std::vector<int> GuestFiles::TakeUnused(pid_t root) {
  std::vector<int> unused;
  if (maybe_unused_.empty()) return unused;
  std::set<std::pair<int, uint64_t>> used;
  for (const pid_t pid : Descendants(root)) CollectPlaceholders(pid, &used);
  for (const int guest_fd : maybe_unused_) {
    const GuestFile* file = Find(guest_fd);
    if (file == nullptr || used.contains({guest_fd, file->serial})) continue;
    files_.erase(guest_fd);
    unused.push_back(guest_fd);
  }
  maybe_unused_.clear();
  return unused;
}

}  // namespace penumbra
