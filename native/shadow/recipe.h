// How to build a context in one particular kernel: offsets, addresses and patches, all computed outside this tree's
// native part. Nothing here knows what a member means beyond the role its name gives.
#ifndef PENUMBRA_NATIVE_SHADOW_RECIPE_H_
#define PENUMBRA_NATIVE_SHADOW_RECIPE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace penumbra {

/// A place in guest-virtual memory: `base` + `offset`, and where `indirect` is set, the pointer found there plus
/// `indirect_offset`.
struct Location {
  enum class Base : uint32_t { kAbsolute = 0, kPerCpu = 1, kTask = 2 };
  Base base = Base::kAbsolute;
  uint64_t offset = 0;
  bool indirect = false;
  uint64_t indirect_offset = 0;
};

/// A change of the private copy made before the first call: `width` bytes at `where` become
/// (old & `keep`) | value, where the value is given by `source`.
struct Patch {
  enum class Source : uint32_t {
    kConstant = 0,
    kTask = 1,       ///< address of the borrowed task + constant
    kStackTop = 2,   ///< where the stack of the calls begins
    kCpu = 3,        ///< number of the CPU that the calls run on
    kCode = 4,       ///< address of the scratch code + constant
    kTaskField = 5,  ///< the pointer in the borrowed task at offset `constant`
  };
  Location where;
  uint32_t width = 8;
  uint64_t keep = 0;
  Source source = Source::kConstant;
  uint64_t constant = 0;
};

/// Copies `width` bytes of guest memory into the scratch code page at `code_offset` (for example the guest's time).
struct Sample {
  Location from;
  uint32_t width = 8;
  uint32_t code_offset = 0;
};

/// An address that calls must not run through, and why.
struct TrapRule {
  enum class Kind : uint32_t {
    kSchedule = 0,  ///< the scheduler: a voluntary switch returns at once, anything else would sleep
    kLock = 1,  ///< slow path of a lock that somebody holds: returns at once for `harmless_readers`, ends the call else
    kBug = 2,   ///< the kernel found itself broken
    kSkip = 3,  ///< has nothing to do in a shadow: returns `value`
    kSignal = 4,    ///< delivers signals on the way to user mode: takes back the one that ended a sleep
    kReadLock = 5,  ///< the same for a lock that one can sleep for: sleeps else
  };
  uint64_t address = 0;
  Kind kind = Kind::kBug;
  uint64_t value = 0;
  std::string name;
};

struct CodeRange {
  uint64_t start;
  uint64_t size;
  bool Contains(uint64_t address) const { return address - start < size; }
};

/// What ends a sleep that signals can end: a fatal signal, pending from the moment the task would sleep until the call
/// is on its way out.
struct SignalRule {
  uint64_t flags = 0;         ///< offset in the task of the word with TIF_SIGPENDING
  uint64_t flags_set = 0;     ///< that bit
  uint64_t pending = 0;       ///< offset in the task of the set of pending signals
  uint64_t pending_set = 0;   ///< the fatal one
  uint64_t sleep_states = 0;  ///< a sleep whose state has one of these bits ends with a signal
};

/// How a wait for a locked page is known, and ended: by the entry (struct wait_page_queue) that the waiter has on its
/// stack for whoever unlocks the page.
struct PageWait {
  uint64_t wake_function = 0;           ///< what every such entry names as its function
  uint64_t function = 0, flags = 0;     ///< offsets in the entry
  uint64_t page = 0, bit = 0;           ///< what is waited for: offsets of a pointer and of a 32-bit number
  uint64_t page_flags = 0;              ///< offset in a page
  uint64_t locked = 0, up_to_date = 0;  ///< bits there, by number
};

/// From where the guest's time-stamp counter is told. What its clocksource said last is the counter itself, or through
/// a page of parameters (struct pvclock_vcpu_time_info, arch/x86/include/asm/pvclock-abi.h) the nanoseconds of a host.
struct CounterRule {
  Location clock;                        ///< pointer to the clocksource in use
  Location last;                         ///< its last reading
  std::vector<uint64_t> counter_clocks;  ///< clocksources that read the counter
  uint64_t page_clock = 0;               ///< the one that goes by the page; 0 for none
  Location page;                         ///< pointer to the page
};

struct Recipe {
  int levels = 4;
  uint64_t kernel_root = 0;  ///< guest-physical page-table root that maps the kernel

  std::vector<uint64_t> per_cpu_bases;  ///< per-CPU base address of each CPU, by number
  uint64_t current_task = 0;            ///< per-CPU offset of the pointer to the running task

  uint64_t task_pid = 0, task_mm = 0, task_stack = 0, task_thread_sp = 0, task_state = 0;
  uint32_t task_state_width = 4;
  std::optional<uint64_t> task_on_cpu;
  uint64_t task_exit_state = 0;  ///< a 32-bit word that is 0 while the task lives
  uint64_t mm_pgd = 0;
  uint64_t stack_size = 16384;

  uint64_t borrowed_task = 0;
  uint32_t borrowed_pid = 1;

  uint64_t syscall_dispatch = 0;  ///< the C function behind the entry code, which does entry and exit work
  bool registers_first = true;    ///< its arguments are (registers, number), not (number, registers)
  uint64_t syscall_table = 0;     ///< for direct calls
  uint64_t syscall_count = 0;
  uint64_t user_code_selector = 0x33, user_data_selector = 0x2b;

  uint64_t idt = 0, gdt_per_cpu = 0, tss_per_cpu = 0;

  /// 32-bit sequence counters; an odd one means that the guest was stopped while writing what they guard.
  std::vector<Location> sequences;
  std::optional<SignalRule> signal;
  std::optional<PageWait> page_wait;
  std::optional<CounterRule> counter;
  uint64_t xcr0 = 0;  ///< what the kernel has written there; 0 where the processor has none
  /// Functions that take locks on behalf of their callers, and callers that read under a lock nothing but what is whole
  /// at every instant: these may pass a lock that is held.
  std::vector<CodeRange> lock_functions;
  std::vector<CodeRange> harmless_readers;
  std::vector<Patch> patches;
  std::vector<Sample> samples;
  std::vector<TrapRule> traps;
  std::vector<uint8_t> code;              ///< contents of the scratch code page
  std::optional<Location> code_version;   ///< a counter that changes whenever kernel text is patched
  uint64_t text_start = 0, text_end = 0;  ///< the text that `code_version` speaks for
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_RECIPE_H_
