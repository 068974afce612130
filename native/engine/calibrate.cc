#include "engine/calibrate.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "engine/kvm_device.h"
#include "engine/kvm_state.h"
#include "engine/kvm_vm.h"
#include "engine/trap_code.h"
#include "error.h"
#include "memory/mapping.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

// The machine's memory: three page tables that map its first 2 MiB to themselves, and a page of code.
constexpr uint64_t kSize = 4 * kPageSize;
constexpr uint64_t kCode = 3 * kPageSize;
constexpr uint64_t kExits = kCode + 16;
constexpr uint64_t kTable = 3;               // present, writable
constexpr uint64_t kLargePage = 3 | 1 << 7;  // the same for 2 MiB

// dec rdi; jnz -5; hlt
constexpr uint8_t kLoop[] = {0x48, 0xff, 0xcf, 0x75, 0xfb, kHalt};
constexpr double kInstructionsPerTurn = 2;
// hlt; jmp -3
constexpr uint8_t kExitLoop[] = {kHalt, 0xeb, 0xfd};

constexpr uint64_t kFirstTurns = 500;
constexpr uint64_t kMostTurns = 8'000'000;
constexpr double kLongEnough = 2e-3;  // seconds
constexpr int kRepeats = 3;
constexpr int kExitRepeats = 50;

CpuContext FlatContext() {
  CpuContext context{};
  context.cr0 = 0x80010033;  // PG, WP, NE, ET, MP, PE
  context.cr4 = 0x20;        // PAE
  return context;
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Runs to the next HLT.
void RunToHalt(KvmVm* vm) {
  for (;;) {
    const int error = vm->Run();
    if (error == EINTR || error == EAGAIN) continue;
    if (error != 0 || vm->run().exit_reason != KVM_EXIT_HLT) {
      throw Error("ENGINE", "KVM does not execute the simplest code (exit " + std::to_string(vm->run().exit_reason) +
                                ", error " + std::to_string(error) + ")");
    }
    return;
  }
}

void Enter(KvmVm* vm, uint64_t code, uint64_t turns) {
  CallRegisters call{};
  call.function = code;
  call.stack = kSize;
  call.arguments[0] = turns;
  vm->registers() = RegistersOf(call);
  vm->RegistersChanged();
}

double GuestSeconds(KvmVm* vm, uint64_t turns) {
  Enter(vm, kCode, turns);
  const Clock::time_point begin = Clock::now();
  RunToHalt(vm);
  return Seconds(Clock::now() - begin);
}

double HostSeconds(uint64_t turns) {
  const Clock::time_point begin = Clock::now();
  asm volatile("1: dec %0; jnz 1b" : "+r"(turns) : : "cc");
  return Seconds(Clock::now() - begin);
}

// Instructions per second: the best of some runs that are long enough to mean something. What the first run of a
// machine has to set up may take as long as that.
template <typename Measure>
double Rate(Measure seconds) {
  const auto best = [&seconds](uint64_t turns) {
    double least = seconds(turns);
    for (int i = 1; i < kRepeats; ++i) least = std::min(least, seconds(turns));
    return least;
  };
  uint64_t turns = kFirstTurns;
  while (turns < kMostTurns && best(turns) < kLongEnough) turns *= 4;
  return kInstructionsPerTurn * static_cast<double>(turns) / best(turns);
}

double ExitNanoseconds(KvmVm* vm) {
  Enter(vm, kExits, 0);
  RunToHalt(vm);
  double best = 1;
  for (int i = 0; i < kExitRepeats; ++i) {
    const Clock::time_point begin = Clock::now();
    RunToHalt(vm);
    best = std::min(best, Seconds(Clock::now() - begin));
  }
  return best * 1e9;
}

}  // namespace

Calibration Calibrate(const std::string& path) {
  const KvmDevice device(path);
  const Mapping memory(Mapping::Kind::kAnonymous, -1, 0, kSize);
  uint64_t* tables = reinterpret_cast<uint64_t*>(memory.data());
  tables[0] = kPageSize | kTable;
  tables[kPageSize / 8] = 2 * kPageSize | kTable;
  tables[2 * kPageSize / 8] = kLargePage;
  std::memcpy(memory.data() + kCode, kLoop, sizeof kLoop);
  std::memcpy(memory.data() + kExits, kExitLoop, sizeof kExitLoop);
  KvmVm vm(device, {{0, kSize, memory.data()}});
  LoadState(FlatContext(), vm.GetSystemRegisters(), &vm);
  Calibration calibration;
  calibration.guest_rate = Rate([&vm](uint64_t turns) { return GuestSeconds(&vm, turns); });
  calibration.host_rate = Rate(HostSeconds);
  calibration.exit_ns = ExitNanoseconds(&vm);
  return calibration;
}

}  // namespace penumbra
