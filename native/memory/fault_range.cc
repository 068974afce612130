#include "memory/fault_range.h"

#include <signal.h>

#include <array>
#include <atomic>
#include <mutex>

#include "error.h"

namespace penumbra {

namespace {

// Read by the signal handler, so it neither moves nor is locked. An end of 0 marks a free slot.
struct Slot {
  std::atomic<uint64_t> start{0};
  std::atomic<uint64_t> end{0};
  std::atomic<FaultHandler*> handler{nullptr};
};

std::array<Slot, 4096> slots;
std::atomic<size_t> slots_used{0};
std::mutex slots_mutex;
struct sigaction previous;

bool Repair(uint64_t address) {
  const size_t used = slots_used.load(std::memory_order_acquire);
  for (size_t i = 0; i < used; ++i) {
    Slot& slot = slots[i];
    if (address < slot.end.load(std::memory_order_acquire) && address >= slot.start.load(std::memory_order_relaxed)) {
      return slot.handler.load(std::memory_order_relaxed)->OnFault(address);
    }
  }
  return false;
}

void OnBusError(int number, siginfo_t* info, void* context) {
  const int saved = errno;
  const bool repaired = Repair(reinterpret_cast<uint64_t>(info->si_addr));
  errno = saved;
  if (repaired) return;
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(number, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(number);
  } else {
    // The access happens again and ends the process as it would have without us.
    signal(number, SIG_DFL);
  }
}

void InstallOnce() {
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    return sigaction(SIGBUS, &action, &previous) == 0;
  }();
  if (!installed) throw Error("ENGINE", "cannot handle SIGBUS");
}

}  // namespace

FaultRange::FaultRange(const void* start, uint64_t size, FaultHandler* handler) {
  InstallOnce();
  const std::lock_guard lock(slots_mutex);
  for (slot_ = 0; slot_ < slots.size() && slots[slot_].end.load() != 0; ++slot_) {
  }
  if (slot_ == slots.size()) throw Error("ENGINE", "too many mappings of guest RAM in one process");
  const uint64_t first = reinterpret_cast<uint64_t>(start);
  slots[slot_].start.store(first, std::memory_order_relaxed);
  slots[slot_].handler.store(handler, std::memory_order_relaxed);
  slots[slot_].end.store(first + size, std::memory_order_release);
  if (slot_ >= slots_used.load()) slots_used.store(slot_ + 1, std::memory_order_release);
}

FaultRange::~FaultRange() {
  const std::lock_guard lock(slots_mutex);
  slots[slot_].end.store(0, std::memory_order_release);
}

}  // namespace penumbra
