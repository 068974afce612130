#include "redirect/supervisor.h"

#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "error.h"
#include "process/bell.h"
#include "redirect/filter.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostLines = 40;
constexpr double kLongestBudget = 1e9;  // ms

double Milliseconds(Clock::duration duration) { return std::chrono::duration<double, std::milli>(duration).count(); }

/// Whether the call may change what a child of its process inherits, see ToolProcess.
bool MayChangeInherited(uint32_t number) {
  return number == SYS_chdir || number == SYS_fchdir || number == SYS_execve || number == SYS_execveat ||
         number == SYS_rt_sigaction;
}

/// Rings when the launcher has something to say, or at a time. None where it cannot be had: everything is looked at
/// before each call then.
void HangBell(int control, Clock::time_point when, std::optional<Bell>* bell) {
  bell->reset();
  try {
    bell->emplace(control, when);
  } catch (const std::exception&) {
    // As described: without one.
  }
}

/// Keeps this thread, and the processes it starts, on one CPU: handing a call over then costs a fifth.
class OneCpu {
 public:
  OneCpu() {
    cpu_set_t here;
    CPU_ZERO(&here);
    if (sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    CPU_SET(sched_getcpu(), &here);
    pinned_ = sched_setaffinity(0, sizeof here, &here) == 0;
  }
  ~OneCpu() {
    if (pinned_) sched_setaffinity(0, sizeof before_, &before_);
  }
  OneCpu(const OneCpu&) = delete;
  OneCpu& operator=(const OneCpu&) = delete;

 private:
  cpu_set_t before_;
  bool pinned_ = false;
};

}  // namespace

Supervisor::Supervisor(GuestKernel* guest, Policy policy)
    : guest_(guest), policy_(std::move(policy)), processes_(policy_) {
  for (const CallRule& rule : policy_.calls) {
    handlers_.push_back(rule.action == CallRule::kHandler ? FindHandler(rule.handler) : nullptr);
    if (rule.action == CallRule::kHandler && handlers_.back() == nullptr) {
      throw Error("BAD_ARGUMENT", std::string("redirection knows no handler ") + rule.handler);
    }
  }
  seccomp_notif_sizes sizes = {};
  if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) != 0) {
    throw SystemError("UNSUPPORTED", "this host's kernel has no seccomp user notification");
  }
  notification_.resize(std::max<size_t>(sizes.seccomp_notif, sizeof(seccomp_notif)));
  // The launcher raises the limit as far as it may.
  rlimit files = {};
  constexpr rlim_t kNumbers = GuestFiles::WholeNumber(GuestFiles::kEnd);
  may_have_whole_ = !policy_.scratch && getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_max >= kNumbers;
}

RunReport Supervisor::Run(const LaunchRequest& request, std::shared_ptr<RunInterrupter> interrupter,
                          const Standstill& standstill) {
  const Clock::time_point begin = Clock::now();
  set_message_fd(request.standard_fds[2]);
  {
    const OneCpu pinned;
    guest_->Begin();
    LaunchedTool tool(request, BuildFilter(policy_), std::move(interrupter));
    listener_ = tool.listener();
    root_ = tool.launcher();
    processes_.set_launcher(root_);
    Loop(&tool, standstill);
  }
  report_.total_ms = Milliseconds(Clock::now() - begin);
  report_.foreseen = guest_->foreseen();
  report_.refused.assign(refused_.begin(), refused_.end());
  return report_;
}

void Supervisor::Loop(LaunchedTool* tool, const Standstill& standstill) {
  const Clock::time_point begin = Clock::now();
  bool stands = standstill.budget_ms > 0;
  const auto budget = std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double, std::milli>(std::min(standstill.budget_ms, kLongestBudget)));
  std::optional<Bell> bell;
  HangBell(tool->control(), stands ? begin + budget : Clock::time_point::max(), &bell);
  pollfd watched[] = {{tool->listener(), POLLIN, 0}, {tool->control(), POLLIN, 0}};
  while (!ending_) {
    // One call after the other is taken up without looking at anything else, until there is something else.
    if (bell && bell->BeginWait()) {
      const bool is_call = Receive();
      bell->EndWait();
      if (is_call) {
        Serve();
        continue;
      }
    }
    int limit = -1;
    if (stands) {
      const double left = standstill.budget_ms - Milliseconds(Clock::now() - begin);
      if (left <= 0) {
        stands = false;
        Release(standstill);
        HangBell(tool->control(), Clock::time_point::max(), &bell);
        continue;
      }
      limit = static_cast<int>(left) + 1;
    }
    if (poll(watched, 2, limit) < 0 && errno != EINTR) throw SystemError("INTERNAL", "poll");
    if ((watched[0].revents & POLLIN) != 0) {
      if (Receive()) Serve();
      continue;
    }
    if (watched[1].revents != 0) {
      LaunchMessage message = {};
      if (tool->ReceiveEnd(&message) && message.kind == LaunchMessage::kEnded) {
        report_.ended = true;
        report_.status = message.value;
        report_.left_over = message.left_over;
      }
      return;
    }
    // Nobody uses the filter any more; the launcher is about to say how it ended.
    if ((watched[0].revents & POLLHUP) != 0) watched[0].fd = -1;
  }
}

void Supervisor::Release(const Standstill& standstill) {
  const Clock::time_point begin = Clock::now();
  const uint64_t copied = standstill.release();
  char line[160];
  std::snprintf(line, sizeof line,
                "the guest stood for %.0f ms: its memory was copied (%.0f MiB, %.0f ms), and it runs on",
                standstill.budget_ms, static_cast<double>(copied) / (1 << 20), Milliseconds(Clock::now() - begin));
  Say(line);
}

bool Supervisor::Receive() {
  std::fill(notification_.begin(), notification_.end(), 0);
  return ioctl(listener_, SECCOMP_IOCTL_NOTIF_RECV, notification_.data()) == 0;
}

void Supervisor::Serve() {
  const seccomp_notif* notification = reinterpret_cast<const seccomp_notif*>(notification_.data());
  const Clock::time_point begin = Clock::now();
  ++report_.notifications;
  ToolCall call = {};
  call.id = notification->id;
  call.number = static_cast<uint32_t>(notification->data.nr);
  call.thread = static_cast<pid_t>(notification->pid);
  call.instruction = notification->data.instruction_pointer;
  std::copy(std::begin(notification->data.args), std::end(notification->data.args), call.arguments);
  call.process = processes_.Find(call.thread);
  if (call.process != nullptr && !KnowsProgram(call)) return;
  if (call.process != nullptr && call.process->unknown_children > 0 && MayChangeInherited(call.number)) {
    processes_.AdoptChildren(call.process);
  }
  if (!moved_.empty()) EndMovesOf(call.thread);
  const Answer answer = call.process == nullptr ? Answer::Error(EPERM) : Decide(call);
  Send(call, answer);
  Tidy();
  report_.handling_ms += Milliseconds(Clock::now() - begin);
}

bool Supervisor::KnowsProgram(const ToolCall& call) {
  ToolProcess* process = call.process;
  if (!process->executing.empty()) processes_.NoteExecuted(process, call.thread);
  if (process->prepared) return true;
  const bool prepared = processes_.Prepare(process, call.thread);
  // The pid may have been another process's by the time its memory was opened, or the thread ended by another one that
  // executes a program, whose memory it then is not yet.
  if (!IsStillWaiting(call)) {
    process->prepared = false;
    processes_.Forget(call.thread);
    return false;
  }
  process->confirmed = true;
  if (!prepared) End("a program could not be kept from reading the host's clock");
  return prepared;
}

bool Supervisor::IsStillWaiting(const ToolCall& call) const {
  uint64_t id = call.id;
  return ioctl(listener_, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

Answer Supervisor::Decide(ToolCall& call) {
  taken_ = 0;
  if (call.number >= policy_.calls.size()) return Answer::Error(ENOSYS);
  call.rule = &policy_.calls[call.number];
  switch (call.rule->action) {
    case CallRule::kHandler:
      return handlers_[call.number](*this, call);
    case CallRule::kGuest:
      if (const std::optional<Answer> known = TakeAhead(call)) return *known;
      if (const std::optional<Answer> known = AnswerWhole(call)) return *known;
      return MeetsCondition(call) ? AskByRule(call) : Refuse(call);
    case CallRule::kScratch:
      return policy_.scratch ? AskByRule(call) : Refuse(call);
    case CallRule::kHere:
    case CallRule::kFree:
      return MeetsCondition(call) ? Answer::Continue() : Refuse(call);
    case CallRule::kAbsent:
      return Answer::Error(ENOSYS);
    case CallRule::kDeny:
    case CallRule::kRefuse:
      break;
  }
  return Refuse(call);
}

bool Supervisor::MeetsCondition(const ToolCall& call) const {
  const CallRule& rule = *call.rule;
  if (rule.condition_argument == ArgumentRule::kNone) return true;
  const auto first = policy_.values.begin() + rule.condition_first;
  // Options and commands are ints to the kernel.
  const uint64_t value = static_cast<uint32_t>(call.arguments[rule.condition_argument]);
  return std::find(first, first + rule.condition_count, value) != first + rule.condition_count;
}

void Supervisor::Send(const ToolCall& call, const Answer& answer) {
  if (answer.kind == Answer::kSent) return;
  seccomp_notif_resp response = {};
  response.id = call.id;
  if (answer.kind == Answer::kContinue) {
    ++report_.continued;
    response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  } else if (answer.value < 0 && answer.value >= -4095) {
    response.error = static_cast<int32_t>(answer.value);
  } else {
    response.val = answer.value;
  }
  // Fails when the caller was ended meanwhile: then nobody waits for the answer.
  ioctl(listener_, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

void Supervisor::Tidy() {
  for (const int folder : left_folders_) CloseLater(folder);
  left_folders_.clear();
}

uint64_t Supervisor::guest_pid() {
  constexpr int64_t kMost = 1 << 22;  // PID_MAX_LIMIT, include/linux/threads.h
  if (!guest_pid_) {
    const int64_t pid = Ask(SYS_getpid);
    guest_pid_ = pid > 0 && pid <= kMost ? static_cast<uint64_t>(pid) : 1;
  }
  return *guest_pid_;
}

bool Supervisor::IsOfTool(pid_t pid) const {
  constexpr int kDeepest = 1000;
  for (int i = 0; i < kDeepest && pid > 1; ++i) {
    pid = ParentOf(pid);
    if (pid == root_) return true;
  }
  return false;
}

WindowPiece Supervisor::Take(uint64_t size) {
  const GuestWindow window = guest_->window();
  const uint64_t at = (taken_ + 15) & ~uint64_t{15};
  if (at > window.size || size > window.size - at) return {};
  taken_ = at + size;
  return {window.host + at, window.guest + at, size};
}

uint8_t* Supervisor::HostAddress(uint64_t guest) const {
  const GuestWindow window = guest_->window();
  return guest - window.guest < window.size ? window.host + (guest - window.guest) : nullptr;
}

namespace {

/// Says which path a call is about; empty where there is none.
std::string PathOf(const ToolCall& call) {
  constexpr size_t kMostShown = 200;
  for (uint8_t i = 0; i < call.rule->argument_count; ++i) {
    if (call.rule->arguments[i].kind != ArgumentRule::kPath) continue;
    char path[kMostShown];
    if (call.process->memory.ReadString(call.arguments[i], path, sizeof path) <= 0) return {};
    return std::string(" of ") + path;
  }
  return {};
}

}  // namespace

Answer Supervisor::Refuse(const ToolCall& call, const std::string& why) {
  ++refused_[call.rule->name];
  const bool unknown = call.rule->action == CallRule::kDeny;
  const bool has_condition = why.empty() && call.rule->condition_argument != ArgumentRule::kNone;
  const std::string which =
      has_condition ? " " + std::to_string(static_cast<uint32_t>(call.arguments[call.rule->condition_argument])) : "";
  const bool could = call.rule->action == CallRule::kScratch;
  const char* usual = could ? ": --scratch lets it succeed in the shadow" : ": it would act on the system";
  std::string line = std::string(call.rule->name) + which + (why.empty() ? PathOf(call) : "");
  line += unknown ? " is not redirected" : " is refused";
  if (!why.empty())
    line += ": " + why;
  else if (!unknown)
    line += usual;
  Say(line);
  return Answer::Error(EPERM);
}

void Supervisor::Say(const std::string& line) {
  if (said_.size() >= kMostLines || !said_.insert(line).second) return;
  std::string text = "penumbra: " + line;
  // Names may be the guest's, and this goes to a terminal.
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 127; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  text += '\n';
  // Nothing is lost when nobody can be told.
  [[maybe_unused]] const ssize_t written = write(message_fd_, text.data(), text.size());
}

void Supervisor::End(const std::string& why) {
  Say(why);
  ending_ = true;
}

void Supervisor::PassTime(int64_t nanoseconds) {
  constexpr int64_t kLatest = int64_t{1} << 60;
  NoteIdle();
  slept = std::min(slept, kLatest) + std::clamp<int64_t>(nanoseconds, 0, kLatest);
  if (++sleeps_ == policy_.most_sleeps) {
    End("the tool waits again and again for something to change, which nothing does in a shadow: ended");
  }
}

void Supervisor::NoteIdle() {
  if (++idle_calls_ == policy_.most_idle_calls) {
    End("the tool does nothing but wait for time to pass, and the guest's clock stands still: ended");
  }
}

}  // namespace penumbra
