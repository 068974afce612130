#include "redirect/placeholders.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "error.h"

namespace penumbra {

namespace {

constexpr char kNameFormat[] = "penumbra:%d";
constexpr std::string_view kLinkBegin = "/memfd:penumbra:";
constexpr std::string_view kLinkEnd = " (deleted)";

}  // namespace

Placeholders::Placeholders()
    : events_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)),
      own_files_(open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (events_ >= 0 && own_files_ >= 0) return;
  const int error = errno;
  if (events_ >= 0) close(events_);
  errno = error;
  throw SystemError("UNSUPPORTED", "this host does not tell when files are closed (inotify)");
}

Placeholders::~Placeholders() {
  for (const auto& [guest_fd, kept] : kept_) close(kept.path);
  close(own_files_);
  close(events_);
}

int Placeholders::OpenAgain(int fd, int flags) const {
  char name[16];
  std::snprintf(name, sizeof name, "%d", fd);
  const int again = openat(own_files_, name, flags | O_CLOEXEC);
  return again < 0 ? -errno : again;
}

// Kernels since 6.14 tell nothing of the file that memfd_create gives, those before tell of its end as of any other: it
// has to be gone before the memory is watched.
int Placeholders::MakeMemory(int guest_fd, int flags) const {
  char name[32];
  std::snprintf(name, sizeof name, kNameFormat, guest_fd);
  const int memory = memfd_create(name, MFD_CLOEXEC);
  if (memory < 0) return -errno;
  const int again = OpenAgain(memory, flags);
  close(memory);
  return again;
}

int Placeholders::Watch(int file, const Watched& watched) {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  const int watch = inotify_add_watch(events_, path, IN_CLOSE);
  if (watch < 0) return -errno;
  watched_[watch] = watched;
  return 0;
}

int Placeholders::Open(int guest_fd) {
  auto known = kept_.find(guest_fd);
  if (known == kept_.end()) {
    const int path = MakeMemory(guest_fd, O_PATH);
    if (path < 0) return path;
    if (const int error = Watch(path, {guest_fd, false})) {
      close(path);
      return error;
    }
    known = kept_.emplace(guest_fd, Kept{path, false}).first;
  }
  Kept& kept = known->second;
  const int file = OpenAgain(kept.path, O_RDWR | (kept.filled ? O_TRUNC : 0));
  if (file >= 0) kept.filled = false;
  return file;
}

void Placeholders::NoteFilled(int guest_fd) {
  const auto known = kept_.find(guest_fd);
  if (known != kept_.end()) known->second.filled = true;
}

int Placeholders::OpenAnother(int guest_fd) {
  const int file = MakeMemory(guest_fd, O_RDWR);
  if (file < 0) return file;
  if (const int error = Watch(file, {guest_fd, true})) {
    close(file);
    return error;
  }
  return file;
}

std::vector<int> Placeholders::TakeClosed() {
  std::vector<int> closed;
  alignas(inotify_event) char events[4096];
  ssize_t length;
  do {
    length = read(events_, events, sizeof events);
    inotify_event event;
    for (const char* at = events; at < events + length; at += sizeof event + event.len) {
      std::memcpy(&event, at, sizeof event);
      const auto watched = watched_.find(event.wd);
      if (watched == watched_.end()) continue;
      if ((event.mask & IN_CLOSE) != 0) {
        closed.push_back(watched->second.guest_fd);
        // While it is watched the memory stays.
        if (watched->second.once) inotify_rm_watch(events_, event.wd);
      }
      if ((event.mask & IN_IGNORED) != 0) watched_.erase(watched);
    }
    // Events of files that are watched themselves have no names: only a full buffer leaves any behind.
  } while (length == sizeof events);
  return closed;
}

std::optional<int> Placeholders::NumberOf(int folder, pid_t thread, int fd) {
  char link[48];
  std::snprintf(link, sizeof link, "fd/%d", fd);
  char target[96];
  ssize_t length = readlinkat(folder, link, target, sizeof target);
  if (length < 0) {
    // The first thread shows none once it has ended; others may run on.
    std::snprintf(link, sizeof link, "task/%d/fd/%d", thread, fd);
    length = readlinkat(folder, link, target, sizeof target);
  }
  if (length <= 0) return std::nullopt;
  std::string_view text(target, static_cast<size_t>(length));
  if (!text.starts_with(kLinkBegin) || !text.ends_with(kLinkEnd)) return std::nullopt;
  text.remove_prefix(kLinkBegin.size());
  text.remove_suffix(kLinkEnd.size());
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace penumbra
