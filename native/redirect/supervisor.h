// Answers the system calls of a redirected tool.
#ifndef PENUMBRA_NATIVE_REDIRECT_SUPERVISOR_H_
#define PENUMBRA_NATIVE_REDIRECT_SUPERVISOR_H_

#include <linux/seccomp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "redirect/guest_files.h"
#include "redirect/guest_kernel.h"
#include "redirect/last_question.h"
#include "redirect/launch.h"
#include "redirect/moved_files.h"
#include "redirect/policy.h"
#include "redirect/read_ahead.h"
#include "redirect/tool_process.h"

namespace penumbra {

/// How a call of the tool is answered.
struct Answer {
  enum Kind {
    kValue,     ///< `value`: a result, or -errno
    kContinue,  ///< the host's kernel carries it out
    kSent,      ///< has been answered already
  };
  Kind kind;
  int64_t value = 0;

  static Answer Value(int64_t value) { return {kValue, value}; }
  static Answer Error(int number) { return {kValue, -static_cast<int64_t>(number)}; }
  static Answer Continue() { return {kContinue}; }
  static Answer Sent() { return {kSent}; }
};

/// A system call that waits for its answer.
struct ToolCall {
  uint64_t id;
  uint32_t number;
  pid_t thread;
  uint64_t instruction;
  uint64_t arguments[6];
  const CallRule* rule;
  ToolProcess* process;
};

/// A piece of the window, taken for one call.
struct WindowPiece {
  uint8_t* host = nullptr;
  uint64_t guest = 0;
  uint64_t size = 0;
};

struct Standstill {
  double budget_ms = 0;               ///< 0: without end
  std::function<uint64_t()> release;  ///< copies what the guest may change, lets it run on, gives the bytes copied
};

struct RunReport {
  int status = 0;      ///< wait status of the tool
  bool ended = false;  ///< false: the run was cut short
  uint32_t left_over = 0;
  uint64_t notifications = 0;
  uint64_t guest_calls = 0;
  uint64_t guest_entries = 0;  ///< how often the shadow was entered for them
  uint64_t foreseen = 0;       ///< of these, before they were asked for
  uint64_t continued = 0;
  double guest_ms = 0;     ///< waiting for the guest's kernel
  double handling_ms = 0;  ///< from taking a call up until it is answered, guest_ms included
  double total_ms = 0;
  std::vector<std::pair<std::string, uint64_t>> refused;  ///< names of calls that were refused, and how often
};

class Supervisor;
using Handler = Answer (*)(Supervisor&, ToolCall&);

/// The handler of this name, or null.
Handler FindHandler(const char* name);

/// One run of a tool. All members but Run are for the handlers.
class Supervisor {
 public:
  /// Throws Error BAD_ARGUMENT when the policy names a handler that does not exist.
  Supervisor(GuestKernel* guest, Policy policy);

  /// Starts the tool and answers it until its last process has ended. `message_fd` gets a line about everything that
  /// was refused. Throws what LaunchedTool throws.
  RunReport Run(const LaunchRequest& request, std::shared_ptr<RunInterrupter> interrupter,
                const Standstill& standstill);

  /// Answers a call of a process that is known.
  Answer Decide(ToolCall& call);
  /// Where lines about what was refused go; Run sets it.
  void set_message_fd(int fd) { message_fd_ = fd; }

  const Policy& policy() const { return policy_; }
  ToolProcesses& processes() { return processes_; }
  GuestFiles& files() { return files_; }
  /// Absolute paths of the guest that are known to lead to something other than a symbolic link.
  std::unordered_set<std::string>& no_links() { return no_links_; }
  uint64_t guest_pid();
  /// Whether a process of the host descends from the launcher.
  bool IsOfTool(pid_t pid) const;

  /// Room for the buffers of the call in progress. Null `host` when there is none left.
  WindowPiece Take(uint64_t size);
  /// Where a place in the window is here; null for any other address.
  uint8_t* HostAddress(uint64_t guest) const;
  /// The largest piece that a transfer should take.
  static constexpr uint64_t kMostTransfer = 1 << 20;

  /// Asks the guest. What did not return becomes EIO, with a line about it.
  int64_t Ask(uint32_t number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0,
              uint64_t f = 0);

  /// Opens a file of the guest, and reads the beginning of what is going to be read anyway in the same entry of the
  /// shadow: what TakeAhead gives. `path` is in the window.
  int64_t OpenAhead(uint64_t folder, const WindowPiece& path, uint64_t flags, uint64_t mode);

  /// What the guest was asked last, if anything can be said for a second time.
  LastQuestion& last_question() { return last_question_; }

  /// Marshals by the rule's arguments and asks the guest, or the host where the path is a local one.
  Answer AskByRule(ToolCall& call);

  enum class Place { kGuest, kLocal, kFault };
  /// Copies a path out of the tool, and says whose it is. A prefix guest: is taken off.
  Place TakePath(const ToolCall& call, uint64_t address, LocalPath::Use use, WindowPiece* path);
  /// Where a path that TakePath gave means one of the caller's own files that is a guest's: puts the number there that
  /// it has in the guest. `follows`: a link at its end is followed.
  void NameOwnFile(const ToolCall& call, const WindowPiece& path, bool follows);
  /// Whether the host answers for this file to this caller.
  bool IsLocalPath(const ToolCall& call, const char* path, LocalPath::Use use) const;

  /// The guest's file behind an fd of the tool, or ToolProcess::kLocal.
  int FileOf(const ToolCall& call, uint64_t fd);
  /// From now on the host's kernel may copy out of `copy`, which is taken over: where it gets to is where the guest's
  /// file is to stand.
  void FollowHost(const ToolCall& call, int guest_fd, int copy) { moved_.Watch(guest_fd, copy, call.thread); }

  /// Replaces a directory argument by the guest's. False: it is a local fd.
  bool TranslateFolder(const ToolCall& call, uint64_t* folder);
  /// Makes the working directory of the caller that of the borrowed task.
  void EnterFolder(ToolProcess* process);
  /// Takes over a directory that the guest has opened; it is closed when the last process has left it.
  std::shared_ptr<const GuestFolder> HoldFolder(int guest_fd);
  /// Makes it the working directory of a process; 0 or -errno.
  int64_t ChangeFolder(ToolProcess* process, const std::shared_ptr<const GuestFolder>& folder);

  /// Whether all of a file that was opened just now has been read, and a tool can have it.
  bool HasWhole(int64_t guest_fd) const {
    return may_have_whole_ && ahead_.guest_fd() == guest_fd && ahead_.Whole() != nullptr;
  }
  /// Notes a file of the guest; returns what stands for it, which the caller closes, or -errno. `whole`: with its
  /// contents, which it HasWhole.
  int AddFile(int guest_fd, bool whole);
  /// Gives the tool a new fd for a file that the guest has opened (`guest_fd` may be an error). With `details.whole`
  /// all of it, where HasWhole.
  Answer GiveGuestFile(const ToolCall& call, int64_t guest_fd, bool close_on_exec, GuestFile details = {});
  /// Gives the tool a copy of an fd of ours, which is closed. `wanted` -1: the lowest number.
  Answer GiveLocalFile(const ToolCall& call, int fd, bool close_on_exec);
  /// Puts a file over an fd of the tool without answering the call.
  bool ReplaceFile(const ToolCall& call, int source, int tool_fd, bool close_on_exec);
  /// Whether the tool has anything open by this number.
  bool IsOpen(const ToolCall& call, uint64_t fd) const;
  /// A copy of an fd of the tool, or -errno.
  int CopyFd(const ToolCall& call, uint64_t fd) const;

  /// EPERM, and a line that says what was refused.
  Answer Refuse(const ToolCall& call, const std::string& why = {});
  /// A line on the tool's standard error; each only once.
  void Say(const std::string& line);
  /// Ends the run with a line.
  void End(const std::string& why);

  void NoteProgress() { idle_calls_ = 0; }
  /// Counts what a program does that waits for time to pass; ends the run when it does nothing else.
  void NoteIdle();
  /// Lets the tool's time pass by so many nanoseconds; ends the run when it does so again and again.
  void PassTime(int64_t nanoseconds);
  /// Nanoseconds that the tool has slept: its clocks are ahead of the guest's by so much. One from the start, so that
  /// what the guest's kernel dates at the instant that stands still lies in the past, as programs expect (ls shows the
  /// year of a file that does not).
  int64_t slept = 1;

 private:
  void Loop(LaunchedTool* tool, const Standstill& standstill);
  void Release(const Standstill& standstill);
  /// Waits for a call of the tool. False when there is none after all: its caller was ended, or a signal came.
  bool Receive();
  /// Answers the call that was received.
  void Serve();
  void Send(const ToolCall& call, const Answer& answer);
  bool MeetsCondition(const ToolCall& call) const;
  /// Learns of the program that makes the call, unless it is known. False: there is nobody to be answered.
  bool KnowsProgram(const ToolCall& call);
  bool IsStillWaiting(const ToolCall& call) const;
  void Tidy();
  size_t Enter(const GuestCall* calls, size_t count, GuestKernel::Answer* answers);
  /// Makes the calls left for later and then these, in one entry of the shadow. Returns how many of these have an
  /// answer.
  size_t AskAll(const GuestCall* calls, size_t count, GuestKernel::Answer* answers);
  int64_t Judge(const GuestCall& call, const GuestKernel::Answer& answer);
  /// For people: the call's name, and the file's that it is about where that can be told.
  std::string Describe(const GuestCall& call);
  std::string TextAt(uint64_t guest) const;
  std::string AskName(uint64_t guest_fd);
  void TakeMove(int guest_fd);
  /// Copies of the host's kernel that this thread waited for.
  void EndMovesOf(pid_t thread);
  void CloseLater(int guest_fd);
  /// Closes in the guest what the tool has closed.
  void CloseUnused();
  void Queue(const GuestCall& call);
  std::optional<Answer> TakeAhead(const ToolCall& call);
  /// Reads and seeks of a file that the tool has whole: the host's kernel keeps its position, the guest's says what a
  /// seek means.
  std::optional<Answer> AnswerWhole(const ToolCall& call);
  void DropAhead();
  void RememberFolder();

  GuestKernel* guest_;
  std::vector<int> left_folders_;  ///< to be closed; outlives the folders
  Policy policy_;
  std::vector<Handler> handlers_;
  ToolProcesses processes_;
  GuestFiles files_;
  MovedFiles moved_;
  ReadAhead ahead_;
  LastQuestion last_question_;
  std::vector<GuestCall> queued_;      ///< to be made before the next call; nobody waits for what they return
  std::vector<uint8_t> notification_;  ///< of the size that the host's kernel wants
  int listener_ = -1;
  int message_fd_ = 2;
  pid_t root_ = 0;
  bool may_have_whole_ = false;                  ///< tools may have as many numbers as that takes
  uint64_t taken_ = 0;                           ///< bytes of the window
  std::shared_ptr<const GuestFolder> entered_;   ///< working directory of the borrowed task now
  std::shared_ptr<const GuestFolder> original_;  ///< its own
  std::unordered_set<std::string> no_links_;
  std::set<std::string> said_;
  std::map<std::string, uint64_t> refused_;
  std::optional<uint64_t> guest_pid_;
  uint32_t idle_calls_ = 0;
  uint32_t sleeps_ = 0;
  bool ending_ = false;
  RunReport report_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_SUPERVISOR_H_
