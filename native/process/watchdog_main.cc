// penumbra-watchdog: waits for penumbra's end. If penumbra was killed while it had a hold on a guest, it gets
// the guest running again and takes the private gdbstub down. It knows no QMP command: what it writes was
// computed beforehand. It allocates nothing, so that it cannot fail for want of memory.
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "process/watchdog_page.h"

namespace penumbra {

namespace {

// Two times the end of a packet whose rest never came, '+' for a reply that was not acknowledged, then
// "continue". Detaching (`D`) would not do: after a second `D` QEMU stops the guest and answers nothing any
// more (gdbstub.c).
constexpr char kContinue[] = "#00#00+$c#63";

constexpr int64_t kStubLimitMs = 1000;
constexpr int64_t kReplyLimitMs = 30000;

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

void Await(int fd, short events, int64_t until) {
  const int64_t left = until - NowMs();
  pollfd poll_fd{fd, events, 0};
  if (left > 0) poll(&poll_fd, 1, static_cast<int>(left));
}

void LeaveWhatPenumbraHas() {
  setsid();  // already done where the C library's posix_spawn can
  for (const int number : {SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGPIPE}) signal(number, SIG_IGN);
  if (chdir("/") != 0) return;  // keeps no file system busy; harmless where it fails
}

void CloseInherited(uint32_t vcpus) {
  const int first = kWatchdogFirstVcpuFd + static_cast<int>(vcpus);
  if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
  for (int fd = first; fd < 65536; fd++) close(fd);  // Linux before 5.9
}

// KVM would go on to leave the registers for nobody at each of the vCPU's returns to QEMU.
void DisarmVcpus(uint32_t vcpus) {
  for (uint32_t i = 0; i < vcpus; i++) {
    const int fd = kWatchdogFirstVcpuFd + static_cast<int>(i);
    // Safe: the descriptor is a vCPU's, which Watchdog's caller mapped itself.
    void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) continue;
    std::atomic_ref<__u64>(static_cast<kvm_run*>(page)->kvm_valid_regs).store(0);
    munmap(page, 4096);
  }
}

void AwaitEndOfPenumbra() {
  char byte;
  for (;;) {
    const ssize_t got = read(kWatchdogLifeFd, &byte, 1);
    if (got == 0 || (got < 0 && errno != EINTR)) return;
  }
}

bool WriteAll(int fd, const char* bytes, size_t size, int64_t until) {
  while (size > 0) {
    const ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes += sent;
      size -= static_cast<size_t>(sent);
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (NowMs() >= until) {
      return false;
    } else {
      Await(fd, POLLOUT, until);
    }
  }
  return true;
}

// QEMU handles what it has read from the stub's socket before it looks at another one: once nothing is unread
// there, a `gdbserver none` on the QMP socket cannot overtake the "continue".
void AwaitStubRead() {
  const int64_t until = NowMs() + kStubLimitMs;
  int unread = 0;
  while (ioctl(kWatchdogStubFd, SIOCOUTQ, &unread) == 0 && unread > 0 && NowMs() < until) {
    const timespec pause{0, 200000};
    nanosleep(&pause, nullptr);
  }
}

// Whether the id came, between the quotes that no JSON string can hold unescaped.
class ReplySearch {
 public:
  explicit ReplySearch(const char* id) {
    key_[0] = '"';
    size_ = strnlen(id, sizeof(WatchdogScript::last_id)) + 2;
    memcpy(key_ + 1, id, size_ - 2);
    key_[size_ - 1] = '"';
  }
  // `bytes` go on where those of the last call ended. The quote is the key's first byte and comes again only
  // at its end, so a mismatch need not look back further than to the byte at hand.
  bool Found(const char* bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
      matched_ = bytes[i] == key_[matched_] ? matched_ + 1 : bytes[i] == key_[0] ? 1 : 0;
      if (matched_ == size_) return true;
    }
    return false;
  }

 private:
  char key_[sizeof(WatchdogScript::last_id) + 2];
  size_t size_;
  size_t matched_ = 0;
};

void Play(const WatchdogScript& script) {
  if (script.size == 0 || script.size > sizeof(script.bytes)) return;
  const int64_t until = NowMs() + kReplyLimitMs;
  if (!WriteAll(kWatchdogQmpFd, script.bytes, script.size, until)) return;
  ReplySearch search(script.last_id);
  char chunk[4096];
  while (NowMs() < until) {
    const ssize_t got = recv(kWatchdogQmpFd, chunk, sizeof(chunk), MSG_DONTWAIT);
    if (got > 0 && search.Found(chunk, static_cast<size_t>(got))) return;
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return;
    if (got < 0) Await(kWatchdogQmpFd, POLLIN, until);
  }
}

void RestoreGuest(const WatchdogPage& page) {
  const auto phase = static_cast<WatchdogPhase>(page.phase.load());
  if (phase == WatchdogPhase::kUnarmed || phase == WatchdogPhase::kReleased) return;
  DisarmVcpus(page.vcpus);
  const bool found_running = page.found_running.load() != 0;
  const bool continues = found_running && phase != WatchdogPhase::kRunning;
  if (continues) {
    // Should the undoing overtake this, `resume` does it once more.
    WriteAll(kWatchdogStubFd, kContinue, sizeof(kContinue) - 1, NowMs() + kStubLimitMs);
  } else if (found_running) {
    AwaitStubRead();
  }
  Play(page.undo);
  if (continues) Play(page.resume);
}

int Main() {
  LeaveWhatPenumbraHas();
  // Safe: the file is a memfd of at least this size, made by Watchdog.
  void* const mapped = mmap(nullptr, sizeof(WatchdogPage), PROT_READ, MAP_SHARED, kWatchdogPageFd, 0);
  if (mapped == MAP_FAILED) return 1;
  const WatchdogPage& page = *static_cast<const WatchdogPage*>(mapped);
  CloseInherited(page.vcpus);
  AwaitEndOfPenumbra();
  RestoreGuest(page);
  return 0;
}

}  // namespace

}  // namespace penumbra

int main() { return penumbra::Main(); }
