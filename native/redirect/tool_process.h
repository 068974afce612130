// The processes of a redirected tool, as far as the supervisor must tell them apart.
#ifndef PENUMBRA_NATIVE_REDIRECT_TOOL_PROCESS_H_
#define PENUMBRA_NATIVE_REDIRECT_TOOL_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "redirect/policy.h"
#include "redirect/tool_memory.h"

namespace penumbra {

/// A working directory in the guest, held open by a file of the borrowed task.
struct GuestFolder {
  int fd;
};

struct ToolProcess {
  /// Of an fd that is no file of the guest.
  static constexpr int kLocal = -1;

  pid_t pid = 0;
  int folder = -1;  ///< /proc/PID; fails once the process is gone, whoever has its pid then
  int pidfd = -1;
  bool confirmed = false;  ///< a call of it still waited when `folder` had been opened: it is of the tool
  ToolMemory memory;
  /// Threads that have been let execute another program and have not been heard of since: it may have begun or not.
  std::vector<pid_t> executing;
  bool prepared = false;  ///< what follows is known of the program that it executes now
  uint64_t loader_start = 0, loader_end = 0;
  uint32_t kinds = 0;   ///< of the program, see ToolKind
  std::string program;  ///< its path
  std::string script;   ///< path of a script that it interprets, as it was executed
  /// Signals that are to break calls off, and what catches them. Those that no longer are caught may still be here.
  std::map<int, uint64_t> breaking_handlers;
  std::shared_ptr<const GuestFolder> cwd;  ///< none: the borrowed task's own
  /// How many children it may have that are not known. They inherit cwd, script and handlers as they are now.
  uint32_t unknown_children = 0;

  ToolProcess() = default;
  ~ToolProcess();
  ToolProcess(const ToolProcess&) = delete;
  ToolProcess& operator=(const ToolProcess&) = delete;

  bool IsLoader(uint64_t instruction) const { return instruction - loader_start < loader_end - loader_start; }
};

/// The parent of a process of the host; -1 when there is no such process.
pid_t ParentOf(pid_t pid);

class ToolProcesses {
 public:
  explicit ToolProcesses(const Policy& policy) : policy_(policy) {}

  /// Which process gets the tool's orphans.
  void set_launcher(pid_t pid) { launcher_ = pid; }

  /// The process that thread `tid` belongs to; null when it is gone. The caller must check afterwards that the
  /// notification which named the thread is still valid, and Forget(tid) if not: with it goes a process that is not
  /// confirmed.
  ToolProcess* Find(pid_t tid);
  void Forget(pid_t tid);

  /// To be told of every call while threads are executing: with the end of that another program may have begun. One
  /// that has not yet begun still has its threads.
  void NoteExecuted(ToolProcess* process, pid_t tid);

  /// Learns what is needed of a process that has just executed a program, by a thread of it that waits. False when it
  /// is gone or cannot be kept from asking the host's clock.
  bool Prepare(ToolProcess* process, pid_t tid);

  /// To be called before something changes that children inherit: those that have not asked anything yet get what it
  /// was. Where a kernel does not list children (CONFIG_PROC_CHILDREN) they get what it is when they ask.
  void AdoptChildren(ToolProcess* parent);

  ToolProcess* WithPid(pid_t pid);
  size_t count() const { return processes_.size(); }

  /// Drops those that have ended; their children that have not asked anything yet are adopted.
  void DropEnded();

  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [pid, process] : processes_) visit(*process);
  }

 private:
  using Ended = std::vector<std::unique_ptr<ToolProcess>>;

  ToolProcess* Adopt(pid_t pid, ToolProcess* parent);
  void TakeEnded(Ended* ended);
  bool PrepareBy(ToolProcess* process, int folder);

  const Policy& policy_;
  pid_t launcher_ = -1;
  std::map<pid_t, std::unique_ptr<ToolProcess>> processes_;
  std::unordered_map<pid_t, ToolProcess*> threads_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_TOOL_PROCESS_H_
