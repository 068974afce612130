// A thread is called out of a system call that blocks, and out of no other.
#include "process/bell.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "test/check.h"

namespace penumbra::test {

namespace {

using Clock = std::chrono::steady_clock;

constexpr Clock::time_point kNever = Clock::time_point::max();

struct Pipe {
  Pipe() { CHECK_EQUAL(pipe(ends), 0); }
  ~Pipe() {
    close(ends[0]);
    close(ends[1]);
  }
  int ends[2];
};

// Waits for bytes until the bell rings; returns how many came. Between the waits a call that any signal would break
// off.
int CountUntilRung(Bell* bell, int fd, bool* disturbed) {
  const timespec moment{0, 1000};
  int bytes = 0;
  while (bell->BeginWait()) {
    char byte;
    const ssize_t got = read(fd, &byte, 1);
    const int error = errno;
    bell->EndWait();
    if (got == 1) ++bytes;
    if (got < 0) CHECK_EQUAL(error, EINTR);
    if (nanosleep(&moment, nullptr) != 0) *disturbed = true;
  }
  if (nanosleep(&moment, nullptr) != 0) *disturbed = true;
  return bytes;
}

}  // namespace

TEST("bell: rings for a file, at whatever moment") {
  Random random;
  bool disturbed = false;
  for (int round = 0; round < 300; ++round) {
    const Pipe quiet;
    const int event = eventfd(0, EFD_CLOEXEC);
    Bell bell(event, kNever);
    const uint64_t bytes = random.Below(20);
    const uint64_t spin = random.Below(500);
    std::thread other([&] {
      for (uint64_t i = 0; i < bytes; ++i) CHECK_EQUAL(write(quiet.ends[1], "!", 1), 1);
      for (uint64_t i = 0; i < spin; ++i) __builtin_ia32_pause();
      eventfd_write(event, 1);
    });
    CHECK(CountUntilRung(&bell, quiet.ends[0], &disturbed) <= static_cast<int>(bytes));
    CHECK(!bell.BeginWait());
    other.join();
    close(event);
  }
  CHECK(!disturbed);
}

TEST("bell: rings at a time, not before, and not when it is taken down") {
  const Pipe quiet;
  bool disturbed = false;
  const Clock::time_point when = Clock::now() + std::chrono::milliseconds(30);
  {
    const Pipe other;
    Bell bell(quiet.ends[0], when);
    CHECK_EQUAL(CountUntilRung(&bell, other.ends[0], &disturbed), 0);
  }
  CHECK(Clock::now() >= when);
  for (int round = 0; round < 100; ++round) {
    Bell bell(quiet.ends[0], kNever);
    CHECK(bell.BeginWait());
    bell.EndWait();
  }
  CHECK(!disturbed);
}

}  // namespace penumbra::test
