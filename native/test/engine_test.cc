// What every engine has to do, tried on a machine of 2 MiB with a few lines of code; no guest is needed. Where there is
// no KVM its tests say so and do nothing.
#include "engine/engine.h"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/calibrate.h"
#include "engine/choose.h"
#include "engine/kvm_device.h"
#include "error.h"
#include "memory/guest_ram.h"
#include "memory/private_ram.h"
#include "test/check.h"

// uc_open of Unicorn 2.1 keeps a little that uc_close does not give back.
extern "C" const char* __lsan_default_suppressions() { return "leak:libunicorn"; }

namespace penumbra::test {

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint64_t kRamSize = 2 << 20;
constexpr uint64_t kScratch = uint64_t{1} << 30;

// Guest-virtual and guest-physical alike.
constexpr uint64_t kTables = 0x1000;
constexpr uint64_t kGdt = 0x8000;
constexpr uint64_t kIdt = 0x9000;
constexpr uint64_t kFunction = 0x10000;
constexpr uint64_t kCallee = 0x11000;
constexpr uint64_t kHandlers = 0x12000;
constexpr uint64_t kData = 0x20000;
constexpr uint64_t kStack = 0x80000;
constexpr uint64_t kReturn = 0x90000;
// Guest-virtual addresses of devices.
constexpr uint64_t kDevice = 0x40000000;  // -> 0xfec00000
constexpr uint64_t kApic = 0x40200000;    // -> 0xfee00000

constexpr uint8_t kHlt = 0xf4;
constexpr uint8_t kRet = 0xc3;

void Check(bool condition, const std::string& what) {
  if (!condition) throw Failure(what);
}

Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Bytes Word(uint64_t value, size_t size) {
  Bytes bytes(size);
  std::memcpy(bytes.data(), &value, size);
  return bytes;
}

// A relative call or jump (`opcode`) at `at` to `target`.
Bytes Relative(uint8_t opcode, uint64_t at, uint64_t target) { return Bytes{opcode} + Word(target - (at + 5), 4); }

// The guest: RAM in a memfd, page tables, descriptor tables.
class Machine {
 public:
  Machine() : fd_(static_cast<int>(syscall(SYS_memfd_create, "engine_check", MFD_CLOEXEC))) {
    if (fd_ < 0 || ftruncate(fd_, kRamSize) != 0) throw SystemError("ENGINE", "memfd");
    bytes_ = static_cast<uint8_t*>(mmap(nullptr, kRamSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
    const uint64_t directory = kTables + 0x1000;
    PutWord(kTables, directory | 3);
    PutWord(directory, (kTables + 0x2000) | 3);
    PutWord(directory + 8, (kTables + 0x3000) | 3);
    PutWord(kTables + 0x2000, 0x83);
    PutWord(kTables + 0x3000, 0xfec00000 | 0x83);
    PutWord(kTables + 0x3008, 0xfee00000 | 0x83);
    PutWord(kGdt + 0x10, 0x00af9b000000ffff);
    PutWord(kGdt + 0x18, 0x00cf93000000ffff);
    Put(kReturn, {kHlt});
    ram_ = std::make_unique<GuestRam>(std::vector<RamDescriptor>{{0, kRamSize, fd_, 0}});
    memory_ = std::make_unique<PrivateRam>(*ram_, kScratch, 0x10000);
  }
  ~Machine() {
    munmap(bytes_, kRamSize);
    close(fd_);
  }

  void Put(uint64_t address, const Bytes& bytes) { std::memcpy(bytes_ + address, bytes.data(), bytes.size()); }
  void PutWord(uint64_t address, uint64_t value) { std::memcpy(bytes_ + address, &value, sizeof value); }

  /// An interrupt gate to `handler`.
  void PutGate(int vector, uint64_t handler) {
    PutWord(kIdt + vector * 16,
            (handler & 0xffff) | 0x10 << 16 | uint64_t{0x8e00} << 32 | (handler >> 16 & 0xffff) << 48);
    PutWord(kIdt + vector * 16 + 8, handler >> 32);
  }

  const uint8_t* live(uint64_t address) const { return bytes_ + address; }
  uint8_t* own(uint64_t address) const { return memory_->table().At(address, 1); }
  PrivateRam& memory() { return *memory_; }

 private:
  int fd_;
  uint8_t* bytes_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<PrivateRam> memory_;
};

CpuContext Context() {
  CpuContext context{};
  context.cr0 = 0x80050033;
  context.cr3 = kTables;
  context.cr4 = 0x20;
  context.efer = 0xd01;
  context.gdt_base = kGdt;
  context.gdt_limit = 0x1f;
  context.idt_base = kIdt;
  context.idt_limit = 0xfff;
  return context;
}

// Answers traps as the check in progress wants it.
class Handler : public TrapHandler {
 public:
  Action OnTrap(size_t index, uint64_t argument, uint64_t stack, uint64_t* result) override {
    ++asked;
    last_index = index;
    last_argument = argument;
    last_stack = stack;
    *result = value;
    return action;
  }
  Action action = Action::kStop;
  uint64_t value = 0;
  int asked = 0;
  size_t last_index = 0;
  uint64_t last_argument = 0, last_stack = 0;
};

// One engine over one machine.
class Bench {
 public:
  explicit Bench(const EngineChoice& choice) : engine_(MakeEngine(choice, machine.memory())) {}

  void SetTraps(const std::vector<Trap>& traps) { engine_->SetTraps(traps, &handler); }

  void Load(const CpuContext& context = Context()) {
    machine.memory().DropAll();
    engine_->CodeChanged();
    engine_->Load(context);
  }

  Outcome Call(uint64_t first = 0, uint64_t second = 0) {
    CallRegisters call{};
    call.function = kFunction;
    call.stack = kStack - 8;
    call.arguments[0] = first;
    call.arguments[1] = second;
    std::memcpy(machine.own(kStack - 8), &kReturn, sizeof kReturn);
    return engine_->Call(call, kReturn, 0);
  }

  /// Loads and calls code that was put just now.
  Outcome Try(const Bytes& code, uint64_t first = 0, uint64_t second = 0) {
    machine.Put(kFunction, code);
    Load();
    return Call(first, second);
  }

  bool StillWorks() {
    const Outcome outcome = Try({0xb8, 7, 0, 0, 0, kRet});  // mov eax, 7
    return outcome.reason == StopReason::kReturned && outcome.value == 7;
  }

  Engine& engine() { return *engine_; }

  Machine machine;
  Handler handler;

 private:
  std::unique_ptr<Engine> engine_;
};

bool Returned(const Outcome& outcome, uint64_t value) {
  return outcome.reason == StopReason::kReturned && outcome.value == value;
}

// mov eax, 42; ret
const Bytes kAnswer = {0xb8, 42, 0, 0, 0, kRet};

void CheckCalls(const EngineChoice& choice) {
  Bench bench(choice);
  const Outcome sum = bench.Try({0x48, 0x8d, 0x04, 0x37, kRet}, 40, 2);  // lea rax, [rdi + rsi]
  Check(Returned(sum, 42), "a function gets its arguments and returns");
  Check(Returned(bench.Call(uint64_t{1} << 63, 1), (uint64_t{1} << 63) + 1), "and again, without another load");

  const Outcome written = bench.Try(Bytes{0x48, 0x89, 0x3c, 0x25} + Word(kData, 4) + Bytes{kRet}, 0x55aa);
  uint64_t own;
  std::memcpy(&own, bench.machine.own(kData), sizeof own);
  Check(written.reason == StopReason::kReturned && own == 0x55aa && *bench.machine.live(kData) == 0,
        "what it writes stays private");

  const Outcome halted = bench.Try({0x90, kHlt});
  Check(halted.reason == StopReason::kHalted, "HLT in the middle is told from a return");
  Check(bench.StillWorks(), "the engine works after it");
}

void CheckTraps(const EngineChoice& choice) {
  const Bytes call = Relative(0xe8, kFunction, kCallee);
  const Bytes caller = call + Bytes{0x48, 0xff, 0xc0, kRet};  // call callee; inc rax; ret
  {
    Bench bench(choice);
    bench.machine.Put(kCallee, kAnswer);
    bench.SetTraps({{kFunction + 0x800, std::nullopt}, {kCallee, std::nullopt}});
    bench.handler.action = TrapHandler::Action::kReturn;
    bench.handler.value = 99;
    const Outcome outcome = bench.Try(caller, 5);
    Check(Returned(outcome, 100), "a trap returns in the place of a function");
    Check(bench.handler.last_index == 1 && bench.handler.last_argument == 5 && bench.handler.last_stack == kStack - 16,
          "and is told where it is");
    bench.handler.action = TrapHandler::Action::kStop;
    const Outcome stopped = bench.Try(caller);
    Check(stopped.reason == StopReason::kTrap && stopped.value == 1 && stopped.rip == kCallee, "a trap ends the call");
    Check(bench.StillWorks(), "the engine works after it");
    Check(*bench.machine.live(kCallee) == kAnswer[0], "nothing of a trap is seen outside");
  }
  struct Begin {
    const char* name;
    Bytes code;
  };
  const Begin begins[] = {
      {"mov", {}},
      {"endbr64", {0xf3, 0x0f, 0x1e, 0xfa}},
      {"nop of five bytes", {0x0f, 0x1f, 0x44, 0, 0}},
      {"push and pop", {0x55, 0x5d}},
      {"call", Relative(0xe8, kCallee, kCallee + 0x100)},
      {"a locked compare-and-exchange of 16 bytes", Bytes{0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25} + Word(kData, 4)},
  };
  for (const Begin& begin : begins) {
    Bench bench(choice);
    bench.machine.Put(kCallee, begin.code + kAnswer);
    bench.machine.Put(kCallee + 0x100, {kRet});
    bench.SetTraps({{kCallee, std::nullopt}});
    bench.handler.action = TrapHandler::Action::kProceed;
    // call callee; call callee; inc rax; ret
    const Bytes twice = call + Relative(0xe8, kFunction + call.size(), kCallee) + Bytes{0x48, 0xff, 0xc0, kRet};
    const Outcome outcome = bench.Try(twice);
    Check(Returned(outcome, 43) && bench.handler.asked == 2, std::string("a function proceeds, twice: ") + begin.name);
  }
  for (const uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{0x9e3779b9}, uint64_t{0x123456789abcdef0}}) {
    Bench bench(choice);
    bench.machine.Put(kCallee, kAnswer);
    bench.SetTraps({{kCallee, value}});
    bench.handler.action = TrapHandler::Action::kReturn;
    bench.handler.value = value;
    Check(Returned(bench.Try(caller), value + 1), "a function that always returns " + std::to_string(value));
  }
}

void CheckDevices(const EngineChoice& choice) {
  Bench bench(choice);
  const Outcome read = bench.Try(Bytes{0x8b, 0x04, 0x25} + Word(kDevice + 0x40, 4) + Bytes{kRet});
  Check(read.reason == StopReason::kDevice && read.address == 0xfec00040, "a read of a device ends the call");
  Check(bench.StillWorks(), "the engine works after it");
  const Outcome write = bench.Try(Bytes{0x89, 0x04, 0x25} + Word(kDevice + 0x44, 4) + Bytes{kRet});
  Check(write.reason == StopReason::kDevice && write.address == 0xfec00044, "a write does");
  Check(bench.StillWorks(), "the engine works after it");
  const Outcome in = bench.Try({0xe4, 0x71, kRet});
  Check(in.reason == StopReason::kDevice && in.address == 0x71, "a read of a port does");
  Check(bench.StillWorks(), "the engine works after it");
  const Outcome out = bench.Try({0xe6, 0x70, kRet});
  Check(out.reason == StopReason::kDevice && out.address == 0x70, "a write to a port does");
  Check(bench.StillWorks(), "the engine works after it");
  // mov dword [apic + 0x300], edi; mov eax, [apic + 0x300]; ret
  const Outcome apic = bench.Try(
      Bytes{0x89, 0x3c, 0x25} + Word(kApic + 0x300, 4) + Bytes{0x8b, 0x04, 0x25} + Word(kApic + 0x300, 4) + Bytes{kRet},
      0x4321);
  Check(Returned(apic, 0), "the local APIC takes writes and reads as idle");
}

void CheckWatchdog(const EngineChoice& choice) {
  Bench bench(choice);
  Engine& engine = bench.engine();
  engine.Interrupt();
  Check(bench.StillWorks(), "an interrupt without a call has no effect");
  std::atomic<bool> quit = false;
  std::thread interrupter([&] {
    while (!quit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      engine.Interrupt();
    }
  });
  const Outcome outcome = bench.Try({0xeb, 0xfe});  // jmp to itself
  quit = true;
  interrupter.join();
  Check(outcome.reason == StopReason::kWatchdog && outcome.rip == kFunction, "a call that does not end is ended");
  Check(bench.StillWorks(), "the engine works after it");

  // Calls and interrupts at the same time: a call returns or is ended, whichever comes first.
  bench.machine.Put(kFunction, kAnswer);
  bench.Load();
  quit = false;
  std::thread hammer([&] {
    while (!quit) {
      engine.Interrupt();
      // The lock that it takes is not a fair one: the engine must get its turn.
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  });
  bool sound = true;
  for (int i = 0; i < 300; ++i) {
    const Outcome raced = bench.Call();
    sound = sound && (Returned(raced, 42) || raced.reason == StopReason::kWatchdog);
    if (raced.reason == StopReason::kWatchdog) engine.Load(Context());
  }
  quit = true;
  hammer.join();
  Check(sound, "interrupts at any moment");
  Check(bench.StillWorks(), "the engine works after them");
}

// What only an engine does that executes like a processor.
void CheckProcessor(const EngineChoice& choice) {
  Bench bench(choice);
  const Outcome shutdown = bench.Try({0x0f, 0x0b});
  Check(shutdown.reason == StopReason::kException, "an exception that nobody handles ends the call");
  Check(bench.StillWorks(), "the engine works after it");
  // add qword [rsp], 2; iretq; and the same above an error code, which is dropped
  bench.machine.Put(kHandlers, {0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf});
  bench.machine.Put(kHandlers + 0x100, {0x48, 0x83, 0xc4, 8, 0x48, 0x83, 0x04, 0x24, 2, 0x48, 0xcf});
  bench.machine.PutGate(6, kHandlers);
  bench.machine.PutGate(13, kHandlers + 0x100);
  Check(Returned(bench.Try(Bytes{0x0f, 0x0b} + kAnswer), 42), "exceptions go to the guest's own handlers");
  // mov ecx, N; rdmsr or wrmsr
  const auto msr = [](uint32_t number, uint8_t opcode) { return Bytes{0xb9} + Word(number, 4) + Bytes{0x0f, opcode}; };
  Check(Returned(bench.Try(msr(0x6e0, 0x30) + kAnswer), 42), "the timer's MSR takes writes");
  Check(Returned(bench.Try(msr(0x83f, 0x30) + kAnswer), 42), "the MSRs of the APIC take writes");
  // mov rax, [data] ...: lock cmpxchg16b with equal and unequal operands; setz al; movzx eax, al; ret
  const Bytes exchange =
      Bytes{0x31, 0xc0, 0x31, 0xd2, 0xbb, 3, 0, 0, 0, 0xb9, 4, 0, 0, 0, 0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25} +
      Word(kData, 4) + Bytes{0x0f, 0x94, 0xc0, 0x0f, 0xb6, 0xc0, kRet};
  Check(Returned(bench.Try(exchange), 1), "CMPXCHG16B exchanges");
  Check(Returned(bench.Call(), 0), "and compares");

  const Calibration speed = Calibrate(choice.kvm_device);
  Check(speed.guest_rate > 1e5 && speed.host_rate > speed.guest_rate / 2 && speed.exit_ns > 100,
        "the speed is measured");
  // A KVM without hardware may answer these two itself.
  if (speed.guest_rate < speed.host_rate / 20) return;
  // An unknown MSR is an exception, whose handler goes on behind the instruction; RAX stays what it was.
  Check(Returned(bench.Try(Bytes{0xb8, 9, 0, 0, 0} + msr(0x4711, 0x32) + Bytes{kRet}), 9), "an unknown MSR does not");
  bench.machine.Put(kFunction, {0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, kRet});  // rdtsc in RAX
  constexpr uint64_t kLittle = 1'000'000'000, kStart = uint64_t{1} << 40;
  uint64_t counter = 0;
  const auto counts_from = [&bench, &counter](uint64_t from, uint64_t to, uint64_t expected) {
    CpuContext context = Context();
    context.tsc = CounterRange{from, to};
    bench.Load(context);
    const Outcome outcome = bench.Call();
    counter = outcome.value;
    return outcome.reason == StopReason::kReturned && counter >= expected && counter < expected + kLittle;
  };
  Check(counts_from(kStart, kStart, kStart), "the time-stamp counter goes on from the guest's");
  Check(counts_from(counter + 1000, counter + 1000, counter + 1000), "also when it is close to that");
  Check(counts_from(kStart, counter + kLittle, counter), "it runs on as far as it may");
  Check(counts_from(kStart, kStart, kStart), "and is set back where it may not");
}

const EngineChoice kUnicorn{"unicorn", ""};
const EngineChoice kKvm{"kvm", "/dev/kvm"};

void WithKvm(void (*check)(const EngineChoice&)) {
  try {
    const KvmDevice device(kKvm.kvm_device);
  } catch (const Error& error) {
    std::printf("# skipped: %s\n", error.what());
    return;
  }
  check(kKvm);
}

TEST("engine unicorn: calls") { CheckCalls(kUnicorn); }
TEST("engine unicorn: traps") { CheckTraps(kUnicorn); }
TEST("engine unicorn: devices") { CheckDevices(kUnicorn); }
TEST("engine unicorn: watchdog") { CheckWatchdog(kUnicorn); }
TEST("engine kvm: calls") { WithKvm(CheckCalls); }
TEST("engine kvm: traps") { WithKvm(CheckTraps); }
TEST("engine kvm: devices") { WithKvm(CheckDevices); }
TEST("engine kvm: watchdog") { WithKvm(CheckWatchdog); }
TEST("engine kvm: exceptions, MSRs, CMPXCHG16B") { WithKvm(CheckProcessor); }

TEST("engine: what is not there") {
  Machine machine;
  CHECK_THROWS("UNSUPPORTED", [&] { MakeEngine({"qemu", ""}, machine.memory()); });
  CHECK_THROWS("UNSUPPORTED", [&] { MakeEngine({"kvm", "/nonexistent/kvm"}, machine.memory()); });
  CHECK_THROWS("UNSUPPORTED", [&] { MakeEngine({"kvm", "/dev/null"}, machine.memory()); });
}

}  // namespace

}  // namespace penumbra::test
