// All that redirection wants of a guest: its kernel answering one system call after the other.
#ifndef PENUMBRA_NATIVE_REDIRECT_GUEST_KERNEL_H_
#define PENUMBRA_NATIVE_REDIRECT_GUEST_KERNEL_H_

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

class GuestKernel {
 public:
  struct Answer {
    int64_t value = 0;     ///< what the kernel returned; meaningless when `failed`
    bool blocked = false;  ///< it returned only because it would have slept
    bool failed = false;   ///< it did not return; failure() says why
  };

  virtual ~GuestKernel() = default;

  virtual GuestWindow window() const = 0;

  /// Runs one system call. Pointers among `arguments` lie in the window. After a failure further calls may be made.
  virtual Answer Call(uint32_t number, const uint64_t (&arguments)[6]) = 0;

  /// Of the last call that failed: a code of src/errors.ts and a sentence.
  virtual const std::string& failure() const = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_GUEST_KERNEL_H_
