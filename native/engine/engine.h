// What an engine is: something that executes guest code in private memory. It knows CPUs, not kernels: which addresses
// are special is told to it as traps, what they mean is decided by the TrapHandler.
#ifndef PENUMBRA_NATIVE_ENGINE_ENGINE_H_
#define PENUMBRA_NATIVE_ENGINE_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "memory/private_ram.h"

namespace penumbra {

/// What a time-stamp counter may be at a moment.
struct CounterRange {
  uint64_t from;
  uint64_t to;  ///< inclusive
};

/// System state of the virtual CPU that runs the calls. The CPU starts every call at privilege level 0 in 64-bit mode.
struct CpuContext {
  uint64_t cr0, cr3, cr4, cr8, efer;
  uint64_t fs_base, gs_base, kernel_gs_base;
  uint64_t idt_base;
  uint32_t idt_limit;
  uint64_t gdt_base;
  uint32_t gdt_limit;
  uint64_t tss_base;
  uint32_t cpu_number;              ///< what RDPID and RDTSCP say
  uint64_t xcr0;                    ///< 0 where the guest's processor has none
  std::optional<CounterRange> tsc;  ///< time-stamp counter, where it is known
};

/// Registers at the first instruction of a function: System V AMD64 ABI, section 3.2.3. `stack` already holds the
/// return address.
struct CallRegisters {
  uint64_t function;
  uint64_t stack;
  uint64_t arguments[6];
};

enum class StopReason {
  kReturned,   ///< the function returned; `value` is RAX
  kTrap,       ///< the TrapHandler ended the call; `value` is its trap index
  kException,  ///< a CPU exception; `value` is the vector, `address` CR2 for page faults
  kDevice,     ///< access to something that is not RAM; `address` is guest-physical or a port
  kHalted,     ///< HLT
  kWatchdog,   ///< Interrupt() was called or the instruction limit was reached
  kFailed,     ///< the engine itself gave up; `value` is its own error number, Load() makes it fit again
};

struct Outcome {
  StopReason reason;
  uint64_t value = 0;
  uint64_t address = 0;
  uint64_t rip = 0;
  uint64_t stack = 0;  ///< RSP
};

/// A page from which code was executed.
struct CodePage {
  uint64_t address;  ///< guest-virtual
  uint64_t gpa;
};

/// An address at which execution does not simply go on.
struct Trap {
  uint64_t address;  ///< of the first instruction of a function
  /// When set the function always returns this at once, which engines may do without asking the TrapHandler.
  std::optional<uint64_t> returns;
};

/// Decides what happens when execution reaches a trap address.
class TrapHandler {
 public:
  enum class Action {
    kStop,     ///< end the call with kTrap
    kReturn,   ///< return from the trapped function at once with the value in `result`
    kProceed,  ///< execute the trapped instruction
  };
  virtual ~TrapHandler() = default;
  /// `argument` is the first integer argument (RDI) of the trapped function, `stack` points to its return address.
  virtual Action OnTrap(size_t index, uint64_t argument, uint64_t stack, uint64_t* result) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual const char* name() const = 0;

  /// Sets the traps. Once per engine, before the first Load().
  virtual void SetTraps(const std::vector<Trap>& traps, TrapHandler* handler) = 0;

  /// Takes over a new world: forgets every cached address translation. Translated code stays.
  virtual void Load(const CpuContext& context) = 0;

  /// Forgets translated code: guest code has changed, or may have.
  virtual void CodeChanged() = 0;

  /// Pages of which code was translated and that no earlier call of this function has returned.
  virtual std::vector<CodePage> TakeNewCodePages() = 0;

  /// Whether Call() keeps to its `instruction_limit`.
  virtual bool CountsInstructions() const = 0;

  /// Runs until the function returns to `return_address`, where a HLT instruction stands. `instruction_limit` 0 means
  /// none.
  virtual Outcome Call(const CallRegisters& registers, uint64_t return_address, uint64_t instruction_limit) = 0;

  /// How often the processor has left guest code for the host so far; 0 where nobody counts.
  virtual uint64_t exits() const { return 0; }

  /// Ends the call in progress, if any, with kWatchdog. The only member that other threads may call.
  virtual void Interrupt() = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_ENGINE_H_
