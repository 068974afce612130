#include "process/watchdog.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <utility>

#include "error.h"

namespace penumbra {

namespace {

// Above every number that the watchdog expects, so that one dup2 never overwrites the source of another.
constexpr int kFirstSafeFd = kWatchdogFirstVcpuFd + static_cast<int>(kMostWatchedVcpus);

// Descriptors that exist only while the watchdog is being started.
class StagedFds {
 public:
  ~StagedFds() {
    for (const Staged& staged : fds_) close(staged.fd);
  }
  void Add(int fd, int number) {
    const int safe = fcntl(fd, F_DUPFD_CLOEXEC, kFirstSafeFd);
    if (safe < 0) throw SystemError("INTERNAL", "cannot duplicate a file descriptor for the watchdog");
    fds_.push_back({safe, number});
  }
  void Describe(posix_spawn_file_actions_t* actions) const {
    for (const Staged& staged : fds_) posix_spawn_file_actions_adddup2(actions, staged.fd, staged.number);
  }

 private:
  struct Staged {
    int fd;
    int number;
  };
  std::vector<Staged> fds_;
};

void Store(WatchdogScript& script, const WatchdogOrder& order) {
  if (order.bytes.size() > sizeof(script.bytes) || order.last_id.size() >= sizeof(script.last_id)) {
    throw Error("BAD_ARGUMENT", "an order for the watchdog is too long");
  }
  script.size = static_cast<uint32_t>(order.bytes.size());
  std::memcpy(script.bytes, order.bytes.data(), order.bytes.size());
  std::memcpy(script.last_id, order.last_id.data(), order.last_id.size());
}

// posix_spawn does not copy the address space (CLONE_VM | CLONE_VFORK in glibc): its time does not grow with
// ours.
pid_t Spawn(const std::string& executable, const StagedFds& fds) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (int fd = 0; fd < 3; fd++) posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
  fds.Describe(&actions);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string name = "penumbra-watchdog";
  char* const argv[] = {name.data(), nullptr};
  char* const environment[] = {nullptr};
  pid_t pid = -1;
  const int failure = posix_spawn(&pid, executable.c_str(), &actions, &attributes, argv, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) {
    errno = failure;
    throw SystemError("INTERNAL", "cannot start the watchdog " + executable);
  }
  return pid;
}

}  // namespace

Watchdog::Watchdog(const std::string& executable, int stub_fd, int qmp_fd, const std::vector<int>& vcpu_fds,
                   bool found_running, const WatchdogOrder& undo, const WatchdogOrder& resume) {
  if (vcpu_fds.size() > kMostWatchedVcpus) throw Error("BAD_ARGUMENT", "too many vCPUs for the watchdog");
  const int memory = memfd_create("penumbra-watchdog", MFD_CLOEXEC);
  if (memory < 0) throw SystemError("INTERNAL", "cannot make the watchdog's page");
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  void* const mapped = ftruncate(memory, sizeof(WatchdogPage)) == 0
                           ? mmap(nullptr, sizeof(WatchdogPage), kAccess, MAP_SHARED, memory, 0)
                           : MAP_FAILED;
  if (mapped == MAP_FAILED) {
    close(memory);
    throw SystemError("INTERNAL", "cannot map the watchdog's page");
  }
  page_ = new (mapped) WatchdogPage{};  // the mapping is page-aligned and large enough
  int pipe_ends[2] = {-1, -1};
  try {
    page_->found_running.store(found_running);
    page_->vcpus = static_cast<uint32_t>(vcpu_fds.size());
    Store(page_->undo, undo);
    Store(page_->resume, resume);
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) throw SystemError("INTERNAL", "cannot make the watchdog's pipe");
    StagedFds fds;
    fds.Add(pipe_ends[0], kWatchdogLifeFd);
    fds.Add(memory, kWatchdogPageFd);
    fds.Add(stub_fd, kWatchdogStubFd);
    fds.Add(qmp_fd, kWatchdogQmpFd);
    int number = kWatchdogFirstVcpuFd;
    for (const int fd : vcpu_fds) fds.Add(fd, number++);
    pid_ = Spawn(executable, fds);
    life_fd_ = std::exchange(pipe_ends[1], -1);
  } catch (...) {
    close(memory);
    if (pipe_ends[0] >= 0) close(pipe_ends[0]);
    if (pipe_ends[1] >= 0) close(pipe_ends[1]);
    munmap(page_, sizeof(WatchdogPage));
    throw;
  }
  close(memory);
  close(pipe_ends[0]);
}

Watchdog::~Watchdog() {
  // Not released: whoever ends without taking the stub down leaves that to the watchdog.
  if (life_fd_ >= 0) close(life_fd_);
  if (page_ != nullptr) munmap(page_, sizeof(WatchdogPage));
}

void Watchdog::Release() noexcept {
  if (life_fd_ < 0) return;
  SetPhase(WatchdogPhase::kReleased);
  close(life_fd_);
  life_fd_ = -1;
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  munmap(std::exchange(page_, nullptr), sizeof(WatchdogPage));
}

}  // namespace penumbra
