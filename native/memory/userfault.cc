#include "memory/userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "error.h"
#include "memory/region_table.h"

namespace penumbra {

namespace {

// Linux 5.11 and 6.1; build machines may have older headers.
constexpr int kUserModeOnly = 1;
constexpr unsigned long kNewFromDevice = _IO(0xAA, 0x00);

int OpenForUserCode() {
  const int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly));
  // Kernels before 5.11 do not know the flag.
  if (fd >= 0 || errno != EINVAL) return fd;
  return static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
}

int OpenForAnyone() {
  int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd >= 0 || errno != EPERM) return fd;
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) {
    errno = EPERM;
    return -1;
  }
  fd = ioctl(device, kNewFromDevice, O_CLOEXEC | O_NONBLOCK);
  close(device);
  return fd;
}

Error Refused(Touch touch) {
  const int number = errno;
  if (number == ENOSYS) return Error("UNSUPPORTED", "the host's kernel has no userfaultfd (CONFIG_USERFAULTFD)");
  const std::string what = "the host refuses userfaultfd, by which guest RAM that is not shared is copied";
  if (touch == Touch::kAnyone) {
    return Error("PERMISSION", what +
                                   ": it needs CAP_SYS_PTRACE, access to /dev/userfaultfd or "
                                   "vm.unprivileged_userfaultfd=1 (the engine unicorn does without)");
  }
  return Error("PERMISSION", what + " (a container's system call filter?); guests with shared RAM do without: " +
                                 std::strerror(number));
}

}  // namespace

Userfault::Userfault(Touch touch, FaultHandler* maker) : maker_(maker) {
  fd_ = touch == Touch::kUserCode ? OpenForUserCode() : OpenForAnyone();
  if (fd_ < 0) throw Refused(touch);
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = touch == Touch::kUserCode ? UFFD_FEATURE_SIGBUS : 0;
  if (ioctl(fd_, UFFDIO_API, &api) != 0) {
    const Error error = SystemError("ENGINE", "cannot use userfaultfd");
    close(fd_);
    throw error;
  }
  if (touch == Touch::kUserCode) return;
  quit_ = eventfd(0, EFD_CLOEXEC);
  if (quit_ < 0) {
    const Error error = SystemError("ENGINE", "cannot make an eventfd");
    close(fd_);
    throw error;
  }
  thread_ = std::thread([this] { Serve(); });
}

Userfault::~Userfault() {
  if (thread_.joinable()) {
    eventfd_write(quit_, 1);
    thread_.join();
    close(quit_);
  }
  close(fd_);
}

void Userfault::Register(uint8_t* start, uint64_t size) {
  // A huge page would be made whole at the first touch.
  madvise(start, size, MADV_NOHUGEPAGE);
  uffdio_register request{};
  request.range = {reinterpret_cast<uint64_t>(start), size};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (ioctl(fd_, UFFDIO_REGISTER, &request) != 0) throw SystemError("ENGINE", "cannot watch memory by userfaultfd");
}

Userfault::Made Userfault::Copy(uint64_t page, const void* from) noexcept {
  uffdio_copy request{};
  request.dst = page;
  request.src = reinterpret_cast<uint64_t>(from);
  request.len = kPageSize;
  for (;;) {
    if (ioctl(fd_, UFFDIO_COPY, &request) == 0) return Made::kNow;
    if (errno == EEXIST) return Made::kBefore;
    // EAGAIN: the address space is changing at the moment.
    if (errno != EAGAIN) return Made::kFailed;
  }
}

uint64_t Userfault::CopyRun(uint64_t page, const void* from, uint64_t size) noexcept {
  uint64_t done = 0;
  while (done < size) {
    uffdio_copy request{};
    request.dst = page + done;
    request.src = reinterpret_cast<uint64_t>(from) + done;
    request.len = size - done;
    const int result = ioctl(fd_, UFFDIO_COPY, &request);
    // Interrupted in the middle it says how far it came, and fails with EAGAIN.
    if (request.copy > 0) done += static_cast<uint64_t>(request.copy);
    if (result == 0 || errno != EAGAIN) break;
  }
  return done;
}

Userfault::Made Userfault::Zero(uint64_t page) noexcept {
  uffdio_zeropage request{};
  request.range = {page, kPageSize};
  for (;;) {
    if (ioctl(fd_, UFFDIO_ZEROPAGE, &request) == 0) return Made::kNow;
    if (errno == EEXIST) return Made::kBefore;
    if (errno != EAGAIN) return Made::kFailed;
  }
}

void Userfault::Serve() {
  for (;;) {
    pollfd events[] = {{fd_, POLLIN, 0}, {quit_, POLLIN, 0}};
    if (poll(events, 2, -1) < 0) continue;
    if (events[1].revents != 0) return;
    uffd_msg message;
    if (read(fd_, &message, sizeof message) != sizeof message) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    const uint64_t page = message.arg.pagefault.address & ~kPageMask;
    // Whoever touched it waits in the kernel and cannot be told otherwise.
    if (!maker_->OnFault(page)) std::abort();
    uffdio_range range{page, kPageSize};
    ioctl(fd_, UFFDIO_WAKE, &range);
  }
}

}  // namespace penumbra
