// How files get from here into a tool.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "redirect/supervisor.h"

namespace penumbra {

namespace {

// A file that was given meanwhile to another call must not be installed twice: one ioctl does both (since 5.14).
int Install(int listener, uint64_t id, int source, int wanted, bool close_on_exec, bool answer) {
  seccomp_notif_addfd request = {};
  request.id = id;
  request.srcfd = static_cast<uint32_t>(source);
  request.newfd = wanted >= 0 ? static_cast<uint32_t>(wanted) : 0;
  request.flags = (wanted >= 0 ? SECCOMP_ADDFD_FLAG_SETFD : 0) | (answer ? SECCOMP_ADDFD_FLAG_SEND : 0);
  request.newfd_flags = close_on_exec ? O_CLOEXEC : 0;
  return ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &request);
}

}  // namespace

Answer Supervisor::GiveGuestFile(const ToolCall& call, int64_t guest_fd, bool close_on_exec, GuestFile details) {
  if (guest_fd < 0) return Answer::Value(guest_fd);
  // The guest decides on the number: a lie would replace another file of the tool.
  if (guest_fd < GuestFiles::kFirst || guest_fd >= GuestFiles::kEnd || files_.Find(static_cast<int>(guest_fd))) {
    Say("the guest gave a file a number that it cannot have");
    return Answer::Error(EMFILE);
  }
  const int number = static_cast<int>(guest_fd);
  const bool gets_whole =
      details.whole && HasWhole(number) && !IsOpen(call, static_cast<uint64_t>(GuestFiles::WholeNumber(number)));
  const int placeholder = AddFile(number, gets_whole);
  if (placeholder < 0) {
    CloseLater(number);
    return Answer::Value(placeholder);
  }
  GuestFile* file = files_.Find(number);
  file->family = details.family;
  file->protocol = details.protocol;
  file->writable = details.writable;
  // The same number as in the guest, so that what it tells of its files is true, unless the tool has one of its own
  // there.
  int wanted = file->whole ? GuestFiles::WholeNumber(number) : number;
  if (!file->whole && IsOpen(call, guest_fd)) wanted = -1;
  const int given = Install(listener_, call.id, placeholder, wanted, close_on_exec, true);
  const int error = errno;
  // Where it did not get to the tool that was the last of it.
  close(placeholder);
  return given < 0 ? Answer::Error(error) : Answer::Sent();
}

int Supervisor::AddFile(int guest_fd, bool whole) {
  const int placeholder = files_.Add(guest_fd, whole ? ahead_.Whole() : nullptr);
  if (files_.IsWhole(guest_fd)) ahead_.Clear();
  return placeholder;
}

Answer Supervisor::GiveLocalFile(const ToolCall& call, int fd, bool close_on_exec) {
  const int given = Install(listener_, call.id, fd, -1, close_on_exec, true);
  const int error = errno;
  close(fd);
  return given < 0 ? Answer::Error(error) : Answer::Sent();
}

bool Supervisor::ReplaceFile(const ToolCall& call, int source, int tool_fd, bool close_on_exec) {
  return Install(listener_, call.id, source, tool_fd, close_on_exec, false) >= 0;
}

bool Supervisor::IsOpen(const ToolCall& call, uint64_t fd) const {
  // Sooner told than by a name in /proc, but of the first thread only, which may have ended before others.
  if (call.thread == call.process->pid) {
    const int copy = CopyFd(call, fd);
    if (copy >= 0) close(copy);
    if (copy >= 0 || copy == -EBADF) return copy >= 0;
  }
  char link[48];
  std::snprintf(link, sizeof link, "task/%d/fd/%d", call.thread, static_cast<int>(fd));
  struct stat status;
  return fstatat(call.process->folder, link, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

int Supervisor::CopyFd(const ToolCall& call, uint64_t fd) const {
  const long copy = syscall(SYS_pidfd_getfd, call.process->pidfd, static_cast<int>(fd), 0);
  return copy < 0 ? -errno : static_cast<int>(copy);
}

int Supervisor::FileOf(const ToolCall& call, uint64_t fd) {
  const int file = files_.Resolve(*call.process, call.thread, static_cast<int>(fd));
  if (file == ToolProcess::kLocal || moved_.empty()) return file;
  TakeMove(file);
  return file;
}

void Supervisor::TakeMove(int guest_fd) {
  const off_t by = moved_.TakeMove(guest_fd);
  if (by != 0) Ask(SYS_lseek, static_cast<uint64_t>(guest_fd), static_cast<uint64_t>(by), SEEK_CUR);
}

void Supervisor::EndMovesOf(pid_t thread) {
  for (const int guest_fd : moved_.Ended(thread)) {
    TakeMove(guest_fd);
    moved_.Forget(guest_fd);
  }
}

bool Supervisor::TranslateFolder(const ToolCall& call, uint64_t* folder) {
  if (static_cast<int>(*folder) == AT_FDCWD) {
    EnterFolder(call.process);
    *folder = static_cast<uint64_t>(static_cast<int64_t>(AT_FDCWD));
    return true;
  }
  const int file = FileOf(call, *folder);
  if (file == ToolProcess::kLocal) return false;
  *folder = static_cast<uint64_t>(file);
  return true;
}

void Supervisor::RememberFolder() {
  if (original_ != nullptr) return;
  const WindowPiece path = Take(2);
  if (path.host == nullptr) return;
  path.host[0] = '.';
  path.host[1] = 0;
  const uint64_t here = static_cast<uint64_t>(static_cast<int64_t>(AT_FDCWD));
  const int64_t fd = Ask(SYS_openat, here, path.guest, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) original_ = HoldFolder(static_cast<int>(fd));
}

void Supervisor::EnterFolder(ToolProcess* process) {
  if (process->cwd == entered_) return;
  const GuestFolder* wanted = process->cwd == nullptr ? original_.get() : process->cwd.get();
  if (wanted != nullptr && Ask(SYS_fchdir, static_cast<uint64_t>(wanted->fd)) == 0) entered_ = process->cwd;
}

std::shared_ptr<const GuestFolder> Supervisor::HoldFolder(int guest_fd) {
  return {new GuestFolder{guest_fd}, [this](const GuestFolder* folder) {
            left_folders_.push_back(folder->fd);
            delete folder;
          }};
}

int64_t Supervisor::ChangeFolder(ToolProcess* process, const std::shared_ptr<const GuestFolder>& folder) {
  RememberFolder();
  const int64_t changed = Ask(SYS_fchdir, static_cast<uint64_t>(folder->fd));
  if (changed == 0) process->cwd = entered_ = folder;
  return changed;
}

}  // namespace penumbra
