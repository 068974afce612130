// The ordinary way of a call: its arguments' rules say what is copied in and out.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "redirect/own_file.h"
#include "redirect/read_ahead.h"
#include "redirect/sound_answer.h"
#include "redirect/supervisor.h"

namespace penumbra {

namespace {

/// A buffer of the call while it is under way.
struct Buffer {
  WindowPiece piece;
  uint64_t tool = 0;    ///< where it is in the tool
  uint64_t length = 0;  ///< bytes
};

class Marshalling {
 public:
  Marshalling(Supervisor& supervisor, ToolCall& call) : supervisor_(supervisor), call_(call) {}
  ~Marshalling() {
    if (copy_ >= 0) close(copy_);
  }
  Marshalling(const Marshalling&) = delete;
  Marshalling& operator=(const Marshalling&) = delete;

  Answer Run() {
    // Takes no path, and is about the folder all the same.
    if (call_.number == SYS_getcwd) supervisor_.EnterFolder(call_.process);
    std::copy(std::begin(call_.arguments), std::end(call_.arguments), registers_);
    for (uint8_t i = 0; i < call_.rule->argument_count; ++i) {
      if (std::optional<Answer> early = PrepareIdentifier(i)) return *early;
    }
    for (uint8_t i = 0; i < call_.rule->argument_count; ++i) {
      if (const int error = PrepareBuffer(i)) return Answer::Error(error);
    }
    const int64_t value = is_local_ ? AskHost() : AskGuest();
    return GiveBack(value);
  }

 private:
  const ArgumentRule& rule(uint8_t index) const { return call_.rule->arguments[index]; }

  /// Files, directories, paths and strings.
  std::optional<Answer> PrepareIdentifier(uint8_t i) {
    switch (rule(i).kind) {
      case ArgumentRule::kFd: {
        const int file = supervisor_.FileOf(call_, call_.arguments[i]);
        if (file == ToolProcess::kLocal) return AnswerLocal();
        registers_[i] = static_cast<uint64_t>(file);
        return std::nullopt;
      }
      case ArgumentRule::kDirFd:
        return PrepareFolder(i);
      case ArgumentRule::kPath:
      case ArgumentRule::kString:
        return PrepareString(i);
      default:
        return std::nullopt;
    }
  }

  /// What --scratch lets succeed in the shadow must not happen on the host. Only a file that was opened for writing can
  /// get another size: one of the tool's own, or its output.
  Answer AnswerLocal() {
    const bool is_size = call_.number == SYS_ftruncate || call_.number == SYS_fallocate;
    if (call_.rule->action != CallRule::kScratch || is_size) return Answer::Continue();
    return supervisor_.Refuse(call_, "it would be done to a file of the host");
  }

  std::optional<Answer> PrepareFolder(uint8_t i) {
    // With an absolute path the kernel does not look at the directory.
    if (supervisor_.TranslateFolder(call_, &registers_[i])) return std::nullopt;
    folder_is_local_ = true;
    return std::nullopt;
  }

  std::optional<Answer> PrepareString(uint8_t i) {
    if (call_.arguments[i] == 0) {
      if (folder_is_local_) return Answer::Error(EBADF);
      return std::nullopt;
    }
    if (rule(i).kind == ArgumentRule::kString) return PrepareText(i);
    if (i == 0 || rule(i - 1).kind != ArgumentRule::kDirFd) supervisor_.EnterFolder(call_.process);
    WindowPiece text;
    const Supervisor::Place place = supervisor_.TakePath(call_, call_.arguments[i], LocalPath::kAny, &text);
    if (place == Supervisor::Place::kFault) return Answer::Error(EFAULT);
    const char* path = reinterpret_cast<const char*>(text.host);
    registers_[i] = text.guest;
    if (place == Supervisor::Place::kGuest) {
      if (TakesOwnFile(text)) return std::nullopt;
      supervisor_.NameOwnFile(call_, text, Follows());
    }
    if (folder_is_local_ && path[0] != '/') {
      if (path[0] != 0 || (call_.rule->flags & CallRule::kLocalPath) == 0) return Answer::Error(ENOTDIR);
      return PrepareLocalFile(i);
    }
    if (place == Supervisor::Place::kLocal) {
      if ((call_.rule->flags & CallRule::kLocalPath) == 0) return Answer::Error(EROFS);
      is_local_ = true;
    }
    return std::nullopt;
  }

  /// Whether a link at the end of the path is followed, of the calls that may be asked of the host.
  bool Follows() const {
    switch (call_.number) {
      case SYS_newfstatat:
      case SYS_faccessat2:
        return (call_.arguments[3] & AT_SYMLINK_NOFOLLOW) == 0;
      case SYS_statx:
        return (call_.arguments[2] & AT_SYMLINK_NOFOLLOW) == 0;
      case SYS_stat:
      case SYS_access:
      case SYS_faccessat:
        return true;
      default:
        return false;
    }
  }

  /// /dev/stdin and its like, where that is no file of the guest: the host is asked about it.
  bool TakesOwnFile(const WindowPiece& path) {
    char* text = reinterpret_cast<char*>(path.host);
    const std::optional<OwnFile> own = FindOwnFile(text);
    if (!own || !own->IsFile() || !Follows() || (call_.rule->flags & CallRule::kLocalPath) == 0) return false;
    const uint64_t fd = static_cast<uint64_t>(own->fd);
    if (supervisor_.FileOf(call_, fd) != ToolProcess::kLocal) return false;
    copy_ = supervisor_.CopyFd(call_, fd);
    if (copy_ < 0) return false;
    std::sprintf(text, "/proc/self/fd/%d", copy_);
    is_local_ = true;
    return true;
  }

  std::optional<Answer> PrepareText(uint8_t i) {
    constexpr uint64_t kRoom = 4096;
    const WindowPiece text = supervisor_.Take(kRoom);
    if (text.host == nullptr) return Answer::Error(ENOMEM);
    const int length = call_.process->memory.ReadString(call_.arguments[i], reinterpret_cast<char*>(text.host), kRoom);
    if (length < 0) return Answer::Error(length == -1 ? EFAULT : ENAMETOOLONG);
    registers_[i] = text.guest;
    return std::nullopt;
  }

  /// fstatat(fd, "") of one of the tool's own files.
  std::optional<Answer> PrepareLocalFile(uint8_t i) {
    copy_ = supervisor_.CopyFd(call_, call_.arguments[i - 1]);
    if (copy_ < 0) return Answer::Error(-copy_);
    registers_[i - 1] = static_cast<uint64_t>(copy_);
    is_local_ = true;
    return std::nullopt;
  }

  /// Bytes of the buffer; false when the tool's length cannot be read.
  bool LengthOf(const ArgumentRule& argument, uint64_t* bytes) const {
    uint64_t units = argument.plus;
    if (argument.length_argument != ArgumentRule::kNone) {
      uint64_t count = call_.arguments[argument.length_argument];
      if ((argument.flags & ArgumentRule::kIndirect) != 0) {
        uint32_t pointed = 0;
        if (count == 0) return true;
        if (!call_.process->memory.ReadValue(count, &pointed)) return false;
        count = pointed;
      }
      count = std::min(count, uint64_t{1} << 40);
      units += (count + argument.divisor - 1) / argument.divisor;
    }
    *bytes = units * argument.unit;
    return true;
  }

  int PrepareBuffer(uint8_t i) {
    const ArgumentRule& argument = rule(i);
    if (argument.kind < ArgumentRule::kIn || call_.arguments[i] == 0) return 0;
    Buffer& buffer = buffers_[i];
    buffer.tool = call_.arguments[i];
    if (!LengthOf(argument, &buffer.length)) return EFAULT;
    if (buffer.length > Supervisor::kMostTransfer) {
      // A transfer may stop early, anything else has a length that means something.
      const bool can_stop = argument.unit == 1 && argument.plus == 0 && argument.divisor == 1 &&
                            argument.kind == ArgumentRule::kFill && argument.length_argument != ArgumentRule::kNone;
      if (!can_stop) return ENOMEM;
      buffer.length = Supervisor::kMostTransfer;
      registers_[argument.length_argument] = buffer.length;
    }
    buffer.piece = supervisor_.Take(buffer.length);
    if (buffer.piece.host == nullptr) return ENOMEM;
    if (argument.kind == ArgumentRule::kIn || argument.kind == ArgumentRule::kInOut) {
      if (!call_.process->memory.Read(buffer.tool, buffer.piece.host, buffer.length)) return EFAULT;
    } else if (argument.kind == ArgumentRule::kOut) {
      std::memset(buffer.piece.host, 0, buffer.length);
    }
    registers_[i] = buffer.piece.guest;
    return 0;
  }

  int64_t AskGuest() {
    if (!ChangesNothing(call_.number)) return AskOnce();
    LastQuestion& last = supervisor_.last_question();
    const std::string texts = Texts();
    if (last.value >= 0 && last.number == call_.number && last.texts == texts &&
        std::equal(registers_, registers_ + call_.rule->argument_count, last.registers)) {
      const uint8_t* at = last.bytes.data();
      ForEachBuffer([&](const Buffer& buffer) {
        std::memcpy(buffer.piece.host, at, buffer.length);
        at += buffer.length;
      });
      return last.value;
    }
    const int64_t value = AskOnce();
    last.number = call_.number;
    std::copy(std::begin(registers_), std::end(registers_), last.registers);
    last.texts = texts;
    last.bytes.clear();
    ForEachBuffer([&](const Buffer& buffer) {
      last.bytes.insert(last.bytes.end(), buffer.piece.host, buffer.piece.host + buffer.length);
    });
    last.value = value;
    return value;
  }

  int64_t AskOnce() {
    return supervisor_.Ask(call_.number, registers_[0], registers_[1], registers_[2], registers_[3], registers_[4],
                           registers_[5]);
  }

  template <typename Visit>
  void ForEachBuffer(Visit visit) const {
    for (const Buffer& buffer : buffers_) {
      if (buffer.piece.host != nullptr) visit(buffer);
    }
  }

  /// Paths and strings among the arguments, each with its NUL.
  std::string Texts() const {
    std::string texts;
    for (uint8_t i = 0; i < call_.rule->argument_count; ++i) {
      if ((rule(i).kind != ArgumentRule::kPath && rule(i).kind != ArgumentRule::kString) || registers_[i] == 0)
        continue;
      texts += reinterpret_cast<const char*>(supervisor_.HostAddress(registers_[i]));
      texts += '\0';
    }
    return texts;
  }

  /// The same question to the host, by name only for what the policy says is the tool's own.
  int64_t AskHost() {
    for (uint8_t i = 0; i < call_.rule->argument_count; ++i) {
      const uint8_t kind = rule(i).kind;
      if (kind >= ArgumentRule::kPath && registers_[i] != 0) {
        registers_[i] = reinterpret_cast<uint64_t>(supervisor_.HostAddress(registers_[i]));
      }
    }
    const long value =
        syscall(call_.number, registers_[0], registers_[1], registers_[2], registers_[3], registers_[4], registers_[5]);
    const int error = errno;
    return value < 0 ? -error : value;
  }

  /// With no room at all many calls tell how much there is; those that read do not.
  bool AsksForLength() const {
    return call_.number != SYS_read && call_.number != SYS_pread64 && call_.number != SYS_getdents64;
  }

  /// What of the buffer has been written. False: the guest's answer contradicts itself.
  bool WrittenLength(uint8_t i, int64_t value, uint64_t* length) const {
    const ArgumentRule& argument = rule(i);
    const Buffer& buffer = buffers_[i];
    *length = buffer.length;
    if (argument.kind == ArgumentRule::kFill) {
      *length = 0;
      if (value <= 0) return true;
      if (buffer.length == 0) return AsksForLength();
      const uint64_t units = static_cast<uint64_t>(value);
      if (units > buffer.length) return false;
      *length =
          (argument.flags & ArgumentRule::kElements) != 0 ? units * argument.unit : units + uint64_t{argument.plus};
      return *length <= buffer.length;
    }
    if ((argument.flags & ArgumentRule::kIndirect) != 0) {
      const Buffer& counter = buffers_[argument.length_argument];
      uint32_t now = 0;
      if (counter.piece.host == nullptr) return true;
      std::memcpy(&now, counter.piece.host, sizeof now);
      // An address that did not fit tells its whole length.
      if (now > std::max<uint64_t>(buffer.length / argument.unit, sizeof(sockaddr_storage))) return false;
      *length = std::min<uint64_t>(buffer.length, uint64_t{now} * argument.unit);
    }
    return true;
  }

  Answer GiveBack(int64_t value) {
    const bool lists = call_.number == SYS_getdents64 || call_.number == SYS_getdents;
    if (lists && value > 0 &&
        !supervisor_.files().NoteListed(static_cast<int>(registers_[0]), static_cast<uint64_t>(value))) {
      supervisor_.Say(std::string(call_.rule->name) + ": the guest's directory has no end");
      return Answer::Error(EIO);
    }
    for (uint8_t i = 0; i < call_.rule->argument_count; ++i) {
      const Buffer& buffer = buffers_[i];
      const uint8_t kind = rule(i).kind;
      if (buffer.piece.host == nullptr || kind < ArgumentRule::kOut) continue;
      if (value < 0 && kind != ArgumentRule::kInOut) continue;
      uint64_t length;
      if (!WrittenLength(i, value, &length)) {
        supervisor_.Say(std::string(call_.rule->name) + ": the guest says it returned more than was asked for");
        return Answer::Error(EIO);
      }
      if (value >= 0 && !is_local_ && !IsSound(call_.number, buffer.piece.host, length)) {
        supervisor_.Say(std::string(call_.rule->name) + ": the guest's answer is none that a kernel gives");
        return Answer::Error(EIO);
      }
      if (!call_.process->memory.Write(buffer.tool, buffer.piece.host, length)) return Answer::Error(EFAULT);
    }
    return Answer::Value(value);
  }

  Supervisor& supervisor_;
  ToolCall& call_;
  uint64_t registers_[6];
  Buffer buffers_[6];
  bool folder_is_local_ = false;
  bool is_local_ = false;
  int copy_ = -1;
};

}  // namespace

Answer Supervisor::AskByRule(ToolCall& call) {
  NoteProgress();
  return Marshalling(*this, call).Run();
}

}  // namespace penumbra
