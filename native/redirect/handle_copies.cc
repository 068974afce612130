// Copies between two files by the kernel: sendfile, splice, tee, copy_file_range.
//
// Out of the guest the host's kernel copies, so that a full pipe, a reader who is gone and signals are what they always
// are: the next piece of the guest's file is put into a memfd that takes the place of the one that stands for it. Into
// the guest, where --scratch lets files be written, the supervisor copies and never waits.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>

#include "redirect/handlers.h"

namespace penumbra {

namespace {

/// Copies may stop early; programs go on from there.
constexpr uint64_t kMostCopied = 8 << 20;

struct Copy {
  uint64_t input, output;                ///< the tool's fds
  uint64_t input_offset, output_offset;  ///< where in the tool the offset is; 0: the file's own position
  uint8_t length_argument;
  int input_file, output_file;  ///< the guest's, or kLocal
};

Copy ReadCopy(Supervisor& supervisor, const ToolCall& call) {
  const uint64_t* a = call.arguments;
  Copy copy;
  switch (call.number) {
    case SYS_sendfile:
      copy = {a[1], a[0], a[2], 0, 3, 0, 0};
      break;
    case SYS_tee:
      copy = {a[0], a[1], 0, 0, 2, 0, 0};
      break;
    default:
      copy = {a[0], a[2], a[1], a[3], 4, 0, 0};
  }
  copy.input_file = supervisor.FileOf(call, copy.input);
  copy.output_file = supervisor.FileOf(call, copy.output);
  return copy;
}

class LocalFd {
 public:
  explicit LocalFd(int fd) : fd_(fd) {}
  ~LocalFd() {
    if (fd_ >= 0) close(fd_);
  }
  LocalFd(const LocalFd&) = delete;
  LocalFd& operator=(const LocalFd&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// Whether an fd of the tool is closed when it executes a program: /proc/PID/fdinfo.
bool ClosesOnExec(const ToolProcess& process, uint64_t fd) {
  char name[32];
  std::snprintf(name, sizeof name, "fdinfo/%d", static_cast<int>(fd));
  const LocalFd information(openat(process.folder, name, O_RDONLY | O_CLOEXEC));
  char text[256];
  const ssize_t length = read(information.get(), text, sizeof text - 1);
  text[std::max<ssize_t>(length, 0)] = 0;
  const char* flags = std::strstr(text, "flags:");
  return flags != nullptr && (std::strtoul(flags + std::strlen("flags:"), nullptr, 8) & O_CLOEXEC) != 0;
}

/// Where the copy begins in the guest's file: 0 or an errno.
int InputPosition(Supervisor& supervisor, const ToolCall& call, const Copy& copy, int64_t* position) {
  if (copy.input_offset != 0) {
    if (!call.process->memory.ReadValue(copy.input_offset, position)) return EFAULT;
    return *position < 0 ? EINVAL : 0;
  }
  *position = supervisor.Ask(SYS_lseek, static_cast<uint64_t>(copy.input_file), 0, SEEK_CUR);
  // A pipe or socket: there is nobody who would fill it.
  if (*position == -ESPIPE) return EINVAL;
  return *position < 0 ? (*position < -4095 ? EIO : static_cast<int>(-*position)) : 0;
}

/// Copies up to `length` bytes of the guest's file to the same place of `target`, which ends there then; 0 or an errno.
int FillFrom(Supervisor& supervisor, int file, int64_t position, uint64_t length, int target) {
  const WindowPiece piece = supervisor.Take(Supervisor::kMostTransfer);
  if (piece.host == nullptr) return ENOMEM;
  uint64_t done = 0;
  while (done < length) {
    const uint64_t wanted = std::min(length - done, piece.size);
    const int64_t at = position + static_cast<int64_t>(done);
    const int64_t got =
        supervisor.Ask(SYS_pread64, static_cast<uint64_t>(file), piece.guest, wanted, static_cast<uint64_t>(at));
    if (got > static_cast<int64_t>(wanted) || got < -4095) return EIO;
    if (got < 0 && done == 0) return got == -ESPIPE || got == -EISDIR ? EINVAL : static_cast<int>(-got);
    if (got <= 0) break;
    if (pwrite(target, piece.host, static_cast<size_t>(got), at) != got) return ENOMEM;
    done += static_cast<uint64_t>(got);
  }
  const off_t end = position + static_cast<int64_t>(done);
  return ftruncate(target, end) == 0 && lseek(target, position, SEEK_SET) == position ? 0 : EOVERFLOW;
}

Answer CopyToHost(Supervisor& supervisor, const ToolCall& call, const Copy& copy) {
  if (call.number == SYS_tee) return Answer::Error(EINVAL);
  if (call.number == SYS_copy_file_range) {
    // What the host's kernel says of files on two file systems (since 5.19): programs read and write then.
    const LocalFd output(supervisor.CopyFd(call, copy.output));
    struct stat status;
    if (output.get() < 0 || fstat(output.get(), &status) != 0) return Answer::Error(EBADF);
    return Answer::Error(S_ISREG(status.st_mode) ? EXDEV : EINVAL);
  }
  if (supervisor.files().IsWhole(copy.input_file)) return Answer::Continue();
  int64_t position = 0;
  if (const int error = InputPosition(supervisor, call, copy, &position)) return Answer::Error(error);
  const uint64_t length = std::min(call.arguments[copy.length_argument], kMostCopied);
  LocalFd piece(supervisor.files().AddAnother(copy.input_file));
  if (piece.get() < 0) return Answer::Error(ENOMEM);
  if (const int error = FillFrom(supervisor, copy.input_file, position, length, piece.get())) {
    return Answer::Error(error);
  }
  const bool close_on_exec = ClosesOnExec(*call.process, copy.input);
  if (!supervisor.ReplaceFile(call, piece.get(), static_cast<int>(copy.input), close_on_exec)) {
    return Answer::Error(EBADF);
  }
  if (copy.input_offset == 0) supervisor.FollowHost(call, copy.input_file, piece.Release());
  return Answer::Continue();
}

/// Reads what is in a pipe of the host without waiting and without taking it out: 0 at its end, or -errno.
int64_t PeekPipe(int pipe, const int (&own)[2], uint8_t* bytes, uint64_t size) {
  const ssize_t there = tee(pipe, own[1], size, SPLICE_F_NONBLOCK);
  if (there <= 0) return there < 0 ? -errno : 0;
  return read(own[0], bytes, static_cast<size_t>(there));
}

/// splice from a pipe of the host.
int64_t CopyOutOfPipe(Supervisor& supervisor, int pipe, const WindowPiece& piece,
                      const std::function<int64_t(uint64_t)>& write) {
  int own[2];
  if (pipe2(own, O_CLOEXEC | O_NONBLOCK) != 0) return -ENFILE;
  const LocalFd reader(own[0]), writer(own[1]);
  supervisor.NoteProgress();
  const int64_t there = PeekPipe(pipe, own, piece.host, piece.size);
  // Programs copy by themselves then, and wait as they read.
  if (there <= 0) return there == -EAGAIN ? -EINVAL : there;
  const int64_t written = write(static_cast<uint64_t>(there));
  if (written > 0) splice(pipe, nullptr, own[1], nullptr, static_cast<size_t>(written), SPLICE_F_NONBLOCK);
  return written;
}

/// sendfile from a file of the host, which never keeps anybody waiting.
int64_t CopyOutOfFile(int file, int64_t offset, const WindowPiece& piece,
                      const std::function<int64_t(uint64_t)>& write) {
  const ssize_t got = offset >= 0 ? pread(file, piece.host, piece.size, offset) : read(file, piece.host, piece.size);
  if (got <= 0) return got < 0 ? -errno : 0;
  const int64_t written = write(static_cast<uint64_t>(got));
  if (offset < 0) lseek(file, std::max<int64_t>(written, 0) - got, SEEK_CUR);
  return written;
}

Answer CopyToGuest(Supervisor& supervisor, const ToolCall& call, const Copy& copy) {
  if (call.number == SYS_tee) return Answer::Error(EINVAL);
  const LocalFd input(supervisor.CopyFd(call, copy.input));
  struct stat status;
  if (input.get() < 0 || fstat(input.get(), &status) != 0) return Answer::Error(EBADF);
  const bool is_file = S_ISREG(status.st_mode);
  if (call.number == SYS_copy_file_range) return Answer::Error(is_file ? EXDEV : EINVAL);
  const bool is_pipe = S_ISFIFO(status.st_mode);
  if (call.number == SYS_splice ? !is_pipe : !is_file) return Answer::Error(EINVAL);
  if (is_pipe && copy.input_offset != 0) return Answer::Error(ESPIPE);
  int64_t from = -1, to = -1;
  const ToolMemory& memory = call.process->memory;
  if ((copy.input_offset != 0 && !memory.ReadValue(copy.input_offset, &from)) ||
      (copy.output_offset != 0 && !memory.ReadValue(copy.output_offset, &to))) {
    return Answer::Error(EFAULT);
  }
  if ((copy.input_offset != 0 && from < 0) || (copy.output_offset != 0 && to < 0)) return Answer::Error(EINVAL);
  const WindowPiece piece = supervisor.Take(std::min(call.arguments[copy.length_argument], Supervisor::kMostTransfer));
  if (piece.host == nullptr) return Answer::Error(ENOMEM);
  if (piece.size == 0) return Answer::Value(0);
  const auto write = [&](uint64_t length) -> int64_t {
    const uint64_t file = static_cast<uint64_t>(copy.output_file);
    const int64_t put = copy.output_offset == 0
                            ? supervisor.Ask(SYS_write, file, piece.guest, length)
                            : supervisor.Ask(SYS_pwrite64, file, piece.guest, length, static_cast<uint64_t>(to));
    return put > static_cast<int64_t>(length) || put < -4095 ? -EIO : put;
  };
  const int64_t copied =
      is_pipe ? CopyOutOfPipe(supervisor, input.get(), piece, write) : CopyOutOfFile(input.get(), from, piece, write);
  if (copied > 0) {
    from += copied;
    to += copied;
    if ((copy.input_offset != 0 && !memory.Write(copy.input_offset, &from, sizeof from)) ||
        (copy.output_offset != 0 && !memory.Write(copy.output_offset, &to, sizeof to))) {
      return Answer::Error(EFAULT);
    }
  }
  return Answer::Value(copied);
}

}  // namespace

/// sendfile, splice, tee, copy_file_range
Answer HandleCopy(Supervisor& supervisor, ToolCall& call) {
  const Copy copy = ReadCopy(supervisor, call);
  supervisor.NoteProgress();
  if (copy.input_file == ToolProcess::kLocal && copy.output_file == ToolProcess::kLocal) return Answer::Continue();
  if (copy.output_file == ToolProcess::kLocal) return CopyToHost(supervisor, call, copy);
  const GuestFile* output = supervisor.files().Find(copy.output_file);
  if (output == nullptr) return Answer::Error(EBADF);
  if (output->family != 0) return supervisor.Refuse(call, "sending");
  if (!output->writable) return Answer::Error(EBADF);
  if (copy.input_file == ToolProcess::kLocal) return CopyToGuest(supervisor, call, copy);
  uint64_t& length = call.arguments[copy.length_argument];
  length = std::min(length, Supervisor::kMostTransfer);
  return supervisor.AskByRule(call);
}

}  // namespace penumbra
