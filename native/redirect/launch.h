// Starts a tool under the filter, through penumbra-launcher.
#ifndef PENUMBRA_NATIVE_REDIRECT_LAUNCH_H_
#define PENUMBRA_NATIVE_REDIRECT_LAUNCH_H_

#include <linux/filter.h>
#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "redirect/launch_protocol.h"

namespace penumbra {

struct LaunchRequest {
  std::string launcher;  ///< path of penumbra-launcher
  std::string program;
  std::vector<std::string> arguments;    ///< argv[0] included
  std::vector<std::string> environment;  ///< NAME=VALUE
  int standard_fds[3] = {0, 1, 2};
};

/// Ends a run from another thread. Outlives the run.
class RunInterrupter {
 public:
  /// Every process of the tool is ended. Has no effect before the run and after it.
  void Interrupt();
  bool interrupted() const { return interrupted_; }

 private:
  friend class LaunchedTool;
  void Watch(int control);

  std::mutex mutex_;
  int control_ = -1;
  bool interrupted_ = false;
};

/// A running tool. Destruction ends all its processes.
class LaunchedTool {
 public:
  /// Throws Error INTERNAL when the launcher cannot be started, BAD_ARGUMENT when the tool cannot.
  LaunchedTool(const LaunchRequest& request, const std::vector<sock_filter>& filter,
               std::shared_ptr<RunInterrupter> interrupter);
  ~LaunchedTool();
  LaunchedTool(const LaunchedTool&) = delete;
  LaunchedTool& operator=(const LaunchedTool&) = delete;

  /// The seccomp notification fd.
  int listener() const { return listener_; }
  /// Readable when the launcher has something to say or is gone.
  int control() const { return control_; }
  pid_t launcher() const { return launcher_; }

  /// Takes the launcher's last message. False when it is gone without one.
  bool ReceiveEnd(LaunchMessage* message);

 private:
  std::shared_ptr<RunInterrupter> interrupter_;
  int control_ = -1;
  int listener_ = -1;
  pid_t launcher_ = -1;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_LAUNCH_H_
