// A guest's kernel as redirection sees it, in a shadow.
#ifndef PENUMBRA_NATIVE_REDIRECT_SHADOW_KERNEL_H_
#define PENUMBRA_NATIVE_REDIRECT_SHADOW_KERNEL_H_

#include <vector>

#include "redirect/guest_kernel.h"
#include "shadow/shadow.h"

namespace penumbra {

/// Where the guest's kernel keeps the number that the borrowed task's next file gets at least.
struct NextFile {
  uint64_t task;   ///< address of the borrowed task
  uint64_t files;  ///< task_struct.files
  uint64_t next;   ///< files_struct.next_fd
};

class ShadowKernel final : public GuestKernel {
 public:
  /// `shadow` is loaded and must outlive this. Files get numbers from `first_file` on.
  /// Throws Error CORRUPT when the borrowed task's table of files is not there.
  ShadowKernel(Shadow* shadow, const NextFile& where, uint32_t first_file);

  GuestWindow window() const override { return window_; }
  size_t Run(const GuestCall* calls, size_t count, uint64_t used, Answer* answers) override;
  const std::string& failure() const override { return failure_; }

 private:
  Batch Encode(const GuestCall* calls, size_t count);

  Shadow* shadow_;
  GuestWindow window_;
  std::vector<uint64_t> encoded_;  ///< the batch, see shadow/batch.h
  std::string failure_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_SHADOW_KERNEL_H_
