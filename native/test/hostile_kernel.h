// A guest's kernel that answers whatever it likes.
#ifndef PENUMBRA_NATIVE_TEST_HOSTILE_KERNEL_H_
#define PENUMBRA_NATIVE_TEST_HOSTILE_KERNEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "redirect/guest_kernel.h"
#include "test/check.h"

namespace penumbra::test {

/// Answers each call at random: now and then as a kernel would, mostly not, and writes where it likes in its window.
/// The window is an allocation of its own, so that a read or write beyond it is seen by the sanitizer.
class HostileKernel final : public GuestKernel {
 public:
  explicit HostileKernel(Random* random) : random_(random) { SetWindow(kMostWindow); }

  static constexpr uint64_t kMostWindow = 2 << 20;

  void SetWindow(uint64_t size);
  GuestWindow window() const override { return {memory_.get(), kAddress, size_}; }
  size_t Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) override;
  const std::string& failure() const override { return failure_; }

  uint64_t calls() const { return calls_; }

 private:
  Answer Call(uint32_t number, const uint64_t (&arguments)[6]);
  static constexpr uint64_t kAddress = 0x7e0000001000;

  int64_t Value(const uint64_t (&arguments)[6]);
  void Scribble(const uint64_t (&arguments)[6]);
  void PutEntries(uint64_t offset, uint64_t* length);
  uint64_t Extreme();

  Random* random_;
  std::unique_ptr<uint8_t[]> memory_;
  uint64_t size_ = 0;
  uint64_t calls_ = 0;
  std::string failure_ = "the guest did not like it";
};

}  // namespace penumbra::test

#endif  // PENUMBRA_NATIVE_TEST_HOSTILE_KERNEL_H_
