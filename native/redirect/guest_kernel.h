// All that redirection wants of a guest: its kernel answering one system call after the other.
#ifndef PENUMBRA_NATIVE_REDIRECT_GUEST_KERNEL_H_
#define PENUMBRA_NATIVE_REDIRECT_GUEST_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace penumbra {

/// Memory that calls take their buffers from and leave them in: user memory of the borrowed task to the guest's
/// kernel, ordinary memory here. What the guest leaves in it is hostile.
struct GuestWindow {
  uint8_t* host;
  uint64_t guest;
  uint64_t size;  ///< bytes
};

/// One system call of a list.
struct GuestCall {
  static constexpr uint8_t kNone = 0xff;

  uint32_t number = 0;
  uint64_t arguments[6] = {};
  /// This argument is what the earlier call number `result_of` returned; when that is an error this call is not made
  /// and has the same error.
  uint8_t result_argument = kNone;
  uint8_t result_of = 0;
};

class GuestKernel {
 public:
  struct Answer {
    int64_t value = 0;     ///< what the kernel returned; meaningless when `failed`
    bool blocked = false;  ///< it returned only because it would have slept
    bool failed = false;   ///< it did not return; failure() says why
  };

  static constexpr size_t kMostCalls = 16;

  virtual ~GuestKernel() = default;

  virtual GuestWindow window() const = 0;

  /// Whoever is going to ask is being started.
  virtual void Begin() {}

  /// Runs up to kMostCalls system calls one after the other, entering the shadow once. Pointers among the arguments lie
  /// in the first `used` bytes of the window. Returns how many have an answer: the first that fails is the last of
  /// them. After a failure further calls may be made.
  virtual size_t Run(const GuestCall* calls, size_t count, uint64_t used, Answer* answers) = 0;

  /// Of the last call that failed: a code of src/errors.ts and a sentence.
  virtual const std::string& failure() const = 0;

  /// How many of the lists had been run before they were asked for.
  virtual uint64_t foreseen() const { return 0; }
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_GUEST_KERNEL_H_
