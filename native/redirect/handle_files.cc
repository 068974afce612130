#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_set>

#include "redirect/handlers.h"
#include "redirect/own_file.h"

namespace penumbra {

namespace {

constexpr uint64_t kMostMapped = uint64_t{256} << 20;
constexpr uint64_t kPage = 4096;

struct OpenRequest {
  uint64_t folder;
  uint64_t path;  ///< in the tool
  uint64_t flags;
  uint64_t mode;
  uint64_t resolve;
};

bool WouldWrite(uint64_t flags) {
  // O_TMPFILE contains O_DIRECTORY.
  const bool creates = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  return (flags & O_PATH) == 0 && ((flags & O_ACCMODE) != O_RDONLY || creates);
}

/// What a loader reads: programs, libraries and its own two files. Any code of the tool can call through the loader.
bool IsForLoader(int fd, const char* path, const struct stat& status) {
  constexpr char kMagic[] = {0x7f, 'E', 'L', 'F'};
  if (!S_ISREG(status.st_mode)) return false;
  if (std::string_view(path) == "/etc/ld.so.cache" || std::string_view(path) == "/etc/ld.so.preload") return true;
  char begin[sizeof kMagic];
  return pread(fd, begin, sizeof begin, 0) == sizeof begin && std::memcmp(begin, kMagic, sizeof begin) == 0;
}

/// Opened here and handed over: what was checked is what the tool gets.
Answer OpenLocal(Supervisor& supervisor, const ToolCall& call, const char* path, uint64_t flags) {
  // Only what is no file on a disk may be written to: /dev/null, the terminal.
  if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL)) return Answer::Error(EEXIST);
  open_how how = {};
  // A pipe or a device must not hold this thread up.
  how.flags = (flags & ~uint64_t{O_CREAT | O_TRUNC | O_EXCL | O_PATH}) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  how.resolve = RESOLVE_NO_MAGICLINKS;
  const int fd = static_cast<int>(syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how));
  if (fd < 0) return Answer::Error(errno);
  struct stat status;
  const bool is_known = fstat(fd, &status) == 0;
  const bool by_loader = call.process->IsLoader(call.instruction);
  if (!is_known || ((flags & O_ACCMODE) != O_RDONLY && (by_loader || !S_ISCHR(status.st_mode)))) {
    close(fd);
    return supervisor.Refuse(call, "a file of the host is never written to");
  }
  if (by_loader && !IsForLoader(fd, path, status)) {
    close(fd);
    return supervisor.Refuse(call, "a program's loader reads libraries only");
  }
  if ((flags & O_NONBLOCK) == 0) fcntl(fd, F_SETFL, static_cast<int>(how.flags & O_APPEND));
  return supervisor.GiveLocalFile(call, fd, (flags & O_CLOEXEC) != 0);
}

/// open("/dev/fd/3") is dup(3) where that is no file of the guest.
std::optional<Answer> OpenNamedFd(Supervisor& supervisor, const ToolCall& call, const char* path, uint64_t flags) {
  const std::optional<OwnFile> own = FindOwnFile(path);
  if (!own || !own->IsFile()) return std::nullopt;
  const uint64_t named = static_cast<uint64_t>(own->fd);
  const int copy = supervisor.CopyFd(call, named);
  if (copy < 0) return std::nullopt;
  struct stat status;
  if ((flags & O_DIRECTORY) != 0 && supervisor.FileOf(call, named) == ToolProcess::kLocal &&
      fstat(copy, &status) == 0 && !S_ISDIR(status.st_mode)) {
    close(copy);
    return Answer::Error(ENOTDIR);
  }
  return supervisor.GiveLocalFile(call, copy, (flags & O_CLOEXEC) != 0);
}

/// Nothing but the borrowed task's own part of /proc comes, goes or changes while the guest stands and nobody writes.
bool StaysTheSame(Supervisor& supervisor, std::string_view path) {
  if (supervisor.policy().scratch || !path.starts_with('/')) return false;
  const std::string own = "/proc/" + std::to_string(supervisor.guest_pid());
  for (const std::string_view folder : {std::string_view("/proc/self"), std::string_view("/proc/thread-self"),
                                        std::string_view("/dev/fd"), std::string_view(own)}) {
    const bool is_there = path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
    if (is_there) return false;
  }
  return true;
}

Answer Open(Supervisor& supervisor, ToolCall& call, OpenRequest request) {
  WindowPiece path;
  // First: it may ask the guest, which could then change the path that was looked at.
  const bool has_folder = supervisor.TranslateFolder(call, &request.folder);
  // To list a directory is to ask about it.
  const LocalPath::Use use = (request.flags & O_DIRECTORY) != 0 ? LocalPath::kAny : LocalPath::kOpen;
  const Supervisor::Place place = supervisor.TakePath(call, request.path, use, &path);
  if (place == Supervisor::Place::kFault) return Answer::Error(EFAULT);
  const char* text = reinterpret_cast<const char*>(path.host);
  supervisor.NoteProgress();
  if (place == Supervisor::Place::kLocal) return OpenLocal(supervisor, call, text, request.flags);
  if (std::optional<Answer> named = OpenNamedFd(supervisor, call, text, request.flags)) return *named;
  supervisor.NameOwnFile(call, path, (request.flags & O_NOFOLLOW) == 0);
  if (!has_folder && text[0] != '/') return Answer::Error(supervisor.IsOpen(call, request.folder) ? ENOTDIR : EBADF);
  const bool writes = WouldWrite(request.flags);
  if (writes && !supervisor.policy().scratch) {
    return supervisor.Refuse(call, std::string("writing to ") + text + " (--scratch lets it succeed in the shadow)");
  }
  // Nobody else runs who could open the other end of a pipe.
  const uint64_t flags = request.flags | O_NONBLOCK;
  GuestFile details = {};
  details.writable = writes;
  int64_t fd;
  if (request.resolve == 0) {
    fd = supervisor.OpenAhead(request.folder, path, flags, request.mode);
  } else {
    const WindowPiece how = supervisor.Take(sizeof(open_how));
    if (how.host == nullptr) return Answer::Error(ENOMEM);
    const open_how value = {flags, request.mode, request.resolve};
    std::memcpy(how.host, &value, sizeof value);
    fd = supervisor.Ask(SYS_openat2, request.folder, path.guest, how.guest, sizeof value);
  }
  details.whole = supervisor.HasWhole(fd) && StaysTheSame(supervisor, text);
  return supervisor.GiveGuestFile(call, fd, (request.flags & O_CLOEXEC) != 0, details);
}

constexpr uint64_t kHere = static_cast<uint64_t>(static_cast<int64_t>(AT_FDCWD));

}  // namespace

Answer HandleOpen(Supervisor& supervisor, ToolCall& call) {
  return Open(supervisor, call, {kHere, call.arguments[0], call.arguments[1], call.arguments[2], 0});
}

Answer HandleOpenAt(Supervisor& supervisor, ToolCall& call) {
  const uint64_t* a = call.arguments;
  return Open(supervisor, call, {a[0], a[1], a[2] & 0xffffffff, a[3], 0});
}

Answer HandleOpenAt2(Supervisor& supervisor, ToolCall& call) {
  open_how how = {};
  if (call.arguments[3] != sizeof how) return Answer::Error(call.arguments[3] < sizeof how ? EINVAL : E2BIG);
  if (!call.process->memory.ReadValue(call.arguments[2], &how)) return Answer::Error(EFAULT);
  return Open(supervisor, call, {call.arguments[0], call.arguments[1], how.flags, how.mode, how.resolve});
}

Answer HandleCreate(Supervisor& supervisor, ToolCall& call) {
  return Open(supervisor, call, {kHere, call.arguments[0], O_CREAT | O_WRONLY | O_TRUNC, call.arguments[1], 0});
}

namespace {

/// Of a file that the user has redirected the tool to only the number is told, as of a pipe: the name is the host's.
ssize_t HideHostName(int process, const char* link, char* target, ssize_t length) {
  struct stat status = {};
  if (fstatat(process, link, &status, 0) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) return length;
  return std::sprintf(target, "host:[%llu]", static_cast<unsigned long long>(status.st_ino));
}

/// realpath(3) asks of every directory on the way whether it is a link, each time anew.
Answer AskForLink(Supervisor& supervisor, ToolCall& call, const char* path) {
  constexpr size_t kMostKnown = 4096;
  std::unordered_set<std::string>& known = supervisor.no_links();
  supervisor.NoteProgress();
  if (known.contains(path)) return Answer::Error(EINVAL);
  const bool has_room = static_cast<int>(call.arguments[call.rule->argument_count - 1]) > 0;
  const Answer answer = supervisor.AskByRule(call);
  const bool is_no_link = has_room && answer.kind == Answer::kValue && answer.value == -EINVAL;
  if (is_no_link && known.size() < kMostKnown) known.insert(path);
  return answer;
}

}  // namespace

/// What leads to the tool's own files and program is known here only.
Answer HandleReadLink(Supervisor& supervisor, ToolCall& call) {
  const bool has_folder = call.number == SYS_readlinkat;
  const uint64_t* rest = call.arguments + (has_folder ? 1 : 0);
  char path[64];
  const int length = call.process->memory.ReadString(rest[0], path, sizeof path);
  if (length >= 0) {
    const std::optional<OwnFile> own = FindOwnFile(path);
    const int named = own && own->IsFile() && !own->by_link ? own->fd : -1;
    // By the number that a list of the borrowed task's files gave it is the guest's.
    const bool is_own_fd = named >= 0 && supervisor.FileOf(call, static_cast<uint64_t>(named)) == ToolProcess::kLocal &&
                           supervisor.IsOpen(call, static_cast<uint64_t>(named));
    const bool is_program = std::strcmp(path, "/proc/self/exe") == 0;
    if (is_own_fd || is_program) {
      char link[32] = "exe";
      if (is_own_fd) std::snprintf(link, sizeof link, "fd/%d", named);
      char target[4096];
      ssize_t got = readlinkat(call.process->folder, link, target, sizeof target);
      if (got < 0) return Answer::Error(errno);
      if (is_own_fd) got = HideHostName(call.process->folder, link, target, got);
      const size_t wanted = std::min<size_t>(static_cast<size_t>(got), rest[2]);
      if (!call.process->memory.Write(rest[1], target, wanted)) return Answer::Error(EFAULT);
      return Answer::Value(static_cast<int64_t>(wanted));
    }
    const bool is_local = supervisor.IsLocalPath(call, path, LocalPath::kAny);
    if (!is_local && StaysTheSame(supervisor, path)) return AskForLink(supervisor, call, path);
  }
  return supervisor.AskByRule(call);
}

/// chdir and fchdir: each process has a working directory, the borrowed task has one.
Answer HandleChangeFolder(Supervisor& supervisor, ToolCall& call) {
  constexpr uint64_t kFlags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  int64_t fd;
  if (call.number == SYS_fchdir) {
    const int file = supervisor.FileOf(call, call.arguments[0]);
    if (file == ToolProcess::kLocal) return Answer::Error(ENOTDIR);
    const WindowPiece dot = supervisor.Take(2);
    if (dot.host == nullptr) return Answer::Error(ENOMEM);
    std::memcpy(dot.host, ".", 2);
    fd = supervisor.Ask(SYS_openat, static_cast<uint64_t>(file), dot.guest, kFlags);
  } else {
    supervisor.EnterFolder(call.process);
    WindowPiece path;
    if (supervisor.TakePath(call, call.arguments[0], LocalPath::kAny, &path) == Supervisor::Place::kFault) {
      return Answer::Error(EFAULT);
    }
    fd = supervisor.Ask(SYS_openat, kHere, path.guest, kFlags);
  }
  if (fd < 0) return Answer::Value(fd);
  // The guest checks the right to enter.
  const auto folder = supervisor.HoldFolder(static_cast<int>(fd));
  const int64_t entered = supervisor.ChangeFolder(call.process, folder);
  return Answer::Value(entered);
}

/// Files that the kernel makes up when they are read have no pages.
bool CanBeMapped(Supervisor& supervisor, int file) {
  constexpr int64_t kMadeUp[] = {PROC_SUPER_MAGIC, SYSFS_MAGIC,   CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
                                 SECURITYFS_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC};
  const WindowPiece piece = supervisor.Take(sizeof(struct statfs));
  if (piece.host == nullptr) return false;
  if (supervisor.Ask(SYS_fstatfs, static_cast<uint64_t>(file), piece.guest) != 0) return true;
  struct statfs status;
  std::memcpy(&status, piece.host, sizeof status);
  return std::find(std::begin(kMadeUp), std::end(kMadeUp), static_cast<int64_t>(status.f_type)) == std::end(kMadeUp);
}

/// The part of the guest's file that is mapped is copied into the memfd that stands for it; then the call can go on.
Answer HandleMap(Supervisor& supervisor, ToolCall& call) {
  const int file = supervisor.FileOf(call, call.arguments[4]);
  if (file == ToolProcess::kLocal) return Answer::Continue();
  const uint64_t length = call.arguments[1], offset = call.arguments[5];
  if (length > kMostMapped || (offset & (kPage - 1)) != 0) return Answer::Error(length > kMostMapped ? ENOMEM : EINVAL);
  const WindowPiece status = supervisor.Take(sizeof(struct stat));
  const WindowPiece piece = supervisor.Take(Supervisor::kMostTransfer);
  if (status.host == nullptr || piece.host == nullptr) return Answer::Error(ENOMEM);
  const int64_t known = supervisor.Ask(SYS_fstat, static_cast<uint64_t>(file), status.guest);
  if (known < 0) return Answer::Value(known);
  struct stat value;
  std::memcpy(&value, status.host, sizeof value);
  if (!S_ISREG(value.st_mode) || !CanBeMapped(supervisor, file)) return Answer::Error(ENODEV);
  const int copy = supervisor.CopyFd(call, call.arguments[4]);
  if (copy < 0) return Answer::Error(-copy);
  const uint64_t size = value.st_size < 0 ? 0 : static_cast<uint64_t>(value.st_size);
  int error = 0;
  struct stat held;
  if (fstat(copy, &held) != 0 ||
      (static_cast<uint64_t>(held.st_size) < size && ftruncate(copy, static_cast<off_t>(size)) != 0)) {
    error = ENOMEM;
  }
  supervisor.files().NoteFilled(file);
  const uint64_t end = std::min(size, offset + length);
  for (uint64_t at = offset; at < end && error == 0;) {
    const uint64_t wanted = std::min(end - at, piece.size);
    const int64_t got = supervisor.Ask(SYS_pread64, static_cast<uint64_t>(file), piece.guest, wanted, at);
    if (got == 0) break;
    if (got < 0 || static_cast<uint64_t>(got) > wanted) {
      error = got < 0 ? static_cast<int>(-got) : EIO;
    } else if (pwrite(copy, piece.host, static_cast<size_t>(got), static_cast<off_t>(at)) != got) {
      error = ENOMEM;
    } else {
      at += static_cast<uint64_t>(got);
    }
  }
  close(copy);
  return error == 0 ? Answer::Continue() : Answer::Error(error);
}

}  // namespace penumbra
