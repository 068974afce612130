// How the guest is asked: several calls in one entry of the shadow, where they are known beforehand.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>

#include "redirect/sound_answer.h"
#include "redirect/supervisor.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostErrno = 4095;
constexpr size_t kMostQueued = 8;
constexpr uint64_t kMostShown = 200;      // bytes of a name
constexpr uint64_t kFileAhead = 4096;     // what files in /proc and /sys give at most at a time
constexpr uint64_t kFolderAhead = 32768;  // the C library's buffer for a directory
// Of a number there all but the beginning is gone after any read: proc_dointvec in kernel/sysctl.c.
constexpr std::string_view kNumbers = "/proc/sys/";

}  // namespace

int64_t Supervisor::Ask(uint32_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f) {
  GuestCall call;
  call.number = number;
  const uint64_t arguments[6] = {a, b, c, d, e, f};
  std::copy(std::begin(arguments), std::end(arguments), call.arguments);
  CloseUnused();
  if (!ahead_.empty() && !ChangesNothing(number)) DropAhead();
  GuestKernel::Answer answer;
  AskAll(&call, 1, &answer);
  return Judge(call, answer);
}

size_t Supervisor::Enter(const GuestCall* calls, size_t count, GuestKernel::Answer* answers) {
  last_question_.value = -1;
  const Clock::time_point begin = Clock::now();
  const size_t done = guest_->Run(calls, count, taken_, answers);
  report_.guest_ms += std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  report_.guest_calls += done;
  ++report_.guest_entries;
  return done;
}

size_t Supervisor::AskAll(const GuestCall* calls, size_t count, GuestKernel::Answer* answers) {
  const size_t before = queued_.size();
  if (before == 0) return Enter(calls, count, answers);
  GuestCall list[GuestKernel::kMostCalls];
  GuestKernel::Answer given[GuestKernel::kMostCalls];
  std::copy(queued_.begin(), queued_.end(), list);
  queued_.clear();
  for (size_t i = 0; i < count; ++i) {
    list[before + i] = calls[i];
    list[before + i].result_of = static_cast<uint8_t>(calls[i].result_of + before);
  }
  size_t done = Enter(list, before + count, given);
  if (done > before) {
    std::copy(given + before, given + done, answers);
    return done - before;
  }
  // One of those left for later failed, which ends a list. Nobody waits for it.
  for (; done < before; ++done) Enter(list + done, 1, given);
  return Enter(calls, count, answers);
}

std::string Supervisor::Describe(const GuestCall& call) {
  if (call.number >= policy_.calls.size()) return "?";
  const CallRule& rule = policy_.calls[call.number];
  std::string name;
  for (uint8_t i = 0; i < rule.argument_count && name.empty(); ++i) {
    if (rule.arguments[i].kind == ArgumentRule::kPath) name = TextAt(call.arguments[i]);
    if (rule.arguments[i].kind == ArgumentRule::kFd) name = AskName(call.arguments[i]);
  }
  return name.empty() ? std::string(rule.name) : std::string(rule.name) + " of " + name;
}

// The guest's kernel may write there meanwhile, and leave the end out.
std::string Supervisor::TextAt(uint64_t guest) const {
  const uint8_t* text = HostAddress(guest);
  if (text == nullptr) return {};
  const GuestWindow window = guest_->window();
  const uint64_t room = std::min<uint64_t>(kMostShown, window.size - static_cast<uint64_t>(text - window.host));
  std::string copy(reinterpret_cast<const char*>(text), room);
  return copy.substr(0, copy.find('\0'));
}

std::string Supervisor::AskName(uint64_t guest_fd) {
  if (guest_fd < GuestFiles::kFirst || guest_fd >= GuestFiles::kEnd) return {};
  const uint64_t taken = taken_;
  const std::string link = "/proc/self/fd/" + std::to_string(guest_fd);
  const WindowPiece path = Take(link.size() + 1);
  const WindowPiece name = Take(kMostShown);
  GuestKernel::Answer answer = {0, false, true};
  if (name.host != nullptr) {
    std::memcpy(path.host, link.c_str(), link.size() + 1);
    const GuestCall call{SYS_readlinkat, {static_cast<uint64_t>(AT_FDCWD), path.guest, name.guest, name.size}};
    Enter(&call, 1, &answer);
  }
  taken_ = taken;
  if (answer.failed || answer.value <= 0 || static_cast<uint64_t>(answer.value) > kMostShown) return {};
  return std::string(reinterpret_cast<const char*>(name.host), static_cast<size_t>(answer.value));
}

int64_t Supervisor::Judge(const GuestCall& call, const GuestKernel::Answer& answer) {
  const uint32_t number = call.number;
  if (answer.failed) {
    const std::string why = guest_->failure();
    Say(Describe(call) + " is not answered: " + why);
    return -EIO;
  }
  if (answer.blocked) {
    // What a file system waits for is its disk; a socket or pipe would wait for somebody who does not run.
    const bool is_file =
        number == SYS_read || number == SYS_pread64 || number == SYS_openat || number == SYS_getdents64;
    if (is_file) {
      const std::string what = Describe(call);
      const bool on_disk = what.find(" of /proc/") == std::string::npos;
      Say(what + (on_disk ? " needs the guest's disk: what it asks for is not in the guest's memory"
                          : " waits for what the guest was about to do when it was stopped: try again"));
    }
    if (is_file || answer.value < -kMostErrno) return -EIO;
    return answer.value == -EINTR ? -EAGAIN : answer.value;
  }
  // Neither a result nor an error.
  return answer.value < -kMostErrno ? -EIO : answer.value;
}

void Supervisor::Queue(const GuestCall& call) {
  last_question_.value = -1;
  if (queued_.size() == kMostQueued) {
    GuestKernel::Answer answers[1];
    const GuestCall last = queued_.back();
    queued_.pop_back();
    AskAll(&last, 1, answers);
  }
  queued_.push_back(call);
}

void Supervisor::CloseLater(int guest_fd) {
  if (ahead_.guest_fd() == guest_fd) ahead_.Clear();
  GuestCall call;
  call.number = SYS_close;
  call.arguments[0] = static_cast<uint64_t>(guest_fd);
  Queue(call);
}

void Supervisor::CloseUnused() {
  for (const int guest_fd : files_.TakeUnused()) CloseLater(guest_fd);
}

void Supervisor::DropAhead() {
  GuestCall rewind;
  if (ahead_.Rewind(&rewind)) Queue(rewind);
  ahead_.Clear();
}

int64_t Supervisor::OpenAhead(uint64_t folder, const WindowPiece& path, uint64_t flags, uint64_t mode) {
  const char* text = reinterpret_cast<const char*>(path.host);
  if (!IsReadAhead(policy_.read_ahead, text, flags)) {
    return Ask(SYS_openat, folder, path.guest, flags, mode);
  }
  const bool lists = (flags & O_DIRECTORY) != 0;
  const bool has_pieces = !std::string_view(text).starts_with(kNumbers);
  const uint64_t size = lists ? kFolderAhead : kFileAhead;
  // The second read says that there is no more.
  constexpr size_t kReads = 2;
  WindowPiece pieces[kReads];
  GuestCall calls[1 + kReads];
  calls[0] = {SYS_openat, {folder, path.guest, flags, mode}};
  for (size_t i = 0; i < kReads; ++i) {
    pieces[i] = Take(size);
    if (pieces[i].host == nullptr) return -ENOMEM;
    calls[1 + i] = {lists ? uint32_t{SYS_getdents64} : uint32_t{SYS_read}, {0, pieces[i].guest, size}, 0, 0};
  }
  CloseUnused();
  DropAhead();
  GuestKernel::Answer answers[1 + kReads];
  const size_t done = AskAll(calls, 1 + kReads, answers);
  const int64_t file = Judge(calls[0], answers[0]);
  if (file < GuestFiles::kFirst || file >= GuestFiles::kEnd) return file;
  ahead_.Begin(static_cast<int>(file), lists, has_pieces);
  for (size_t i = 1; i < done; ++i) {
    const GuestKernel::Answer& answer = answers[i];
    const WindowPiece& piece = pieces[i - 1];
    // Anything that needs a word about it is asked once more, when the tool asks for it.
    if (answer.failed || answer.blocked || answer.value < 0 || static_cast<uint64_t>(answer.value) > size) break;
    if (!IsSound(calls[i].number, piece.host, static_cast<uint64_t>(answer.value))) break;
    ahead_.Add(piece.host, static_cast<uint64_t>(answer.value));
  }
  if (ahead_.Next() == nullptr) ahead_.Clear();
  return file;
}

std::optional<Answer> Supervisor::TakeAhead(const ToolCall& call) {
  const bool lists = call.number == SYS_getdents64;
  if (ahead_.empty() || (call.number != SYS_read && !lists) || lists != ahead_.is_folder()) return std::nullopt;
  if (files_.Resolve(*call.process, call.thread, static_cast<int>(call.arguments[0])) != ahead_.guest_fd())
    return std::nullopt;
  const ReadAhead::Part& part = *ahead_.Next();
  const uint64_t there = part.bytes.size() - part.given;
  const uint64_t wanted = call.arguments[2];
  // Into more room the guest might have put more, and less into less.
  const bool is_same =
      lists ? wanted == kFolderAhead || (ahead_.EndsThere() && wanted >= there)
            : (wanted <= there && ahead_.has_pieces()) || (wanted >= there && part.bytes.size() < kFileAhead);
  if (!is_same || wanted == 0) return std::nullopt;
  NoteProgress();
  const uint64_t length = std::min(there, wanted);
  if (!call.process->memory.Write(call.arguments[1], part.bytes.data() + part.given, length)) {
    return Answer::Error(EFAULT);
  }
  ahead_.Advance(length);
  return Answer::Value(static_cast<int64_t>(length));
}

std::optional<Answer> Supervisor::AnswerWhole(const ToolCall& call) {
  if (!files_.has_whole() || (call.number != SYS_read && call.number != SYS_lseek)) return std::nullopt;
  const int guest_fd = FileOf(call, call.arguments[0]);
  if (!files_.IsWhole(guest_fd)) return std::nullopt;
  NoteProgress();
  if (call.number == SYS_read) return Answer::Continue();
  const int copy = CopyFd(call, call.arguments[0]);
  if (copy < 0) return Answer::Error(-copy);
  const uint64_t file = static_cast<uint64_t>(guest_fd);
  int64_t value = Ask(SYS_lseek, file, static_cast<uint64_t>(lseek(copy, 0, SEEK_CUR)), SEEK_SET);
  if (value >= 0) value = Ask(SYS_lseek, file, call.arguments[1], call.arguments[2]);
  if (value >= 0 && lseek(copy, value, SEEK_SET) != value) value = -EOVERFLOW;
  close(copy);
  return Answer::Value(value);
}

}  // namespace penumbra
