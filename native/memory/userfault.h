// userfaultfd(2) in missing mode: memory of ours whose pages are made when they are first touched.
#ifndef PENUMBRA_NATIVE_MEMORY_USERFAULT_H_
#define PENUMBRA_NATIVE_MEMORY_USERFAULT_H_

#include <cstdint>
#include <thread>

#include "memory/fault_range.h"

namespace penumbra {

/// Who may touch a page that is not there yet.
enum class Touch {
  /// Only code of this process: the page is made on the thread that touches it, in a signal handler, which any user may
  /// do. A system call that is given such memory fails with EFAULT.
  kUserCode,
  /// The kernel as well (a KVM guest, a read(2) into it): the page is made on a thread of its own, which takes longer
  /// and needs CAP_SYS_PTRACE, vm.unprivileged_userfaultfd or access to /dev/userfaultfd.
  kAnyone,
};

class Userfault {
 public:
  /// `maker` makes pages by Copy or Zero when OnFault is called. Throws Error PERMISSION, UNSUPPORTED, ENGINE.
  Userfault(Touch touch, FaultHandler* maker);
  /// Nobody may touch registered memory any more.
  ~Userfault();
  Userfault(const Userfault&) = delete;
  Userfault& operator=(const Userfault&) = delete;

  /// From now on untouched pages of this anonymous memory are asked for. Throws Error ENGINE.
  void Register(uint8_t* start, uint64_t size);

  enum class Made { kNow, kBefore, kFailed };
  /// Makes the page at `page` with a copy of `from`. Async-signal-safe.
  Made Copy(uint64_t page, const void* from) noexcept;
  /// Makes the pages of [page, page + size) up to the first that is there already; returns their bytes.
  uint64_t CopyRun(uint64_t page, const void* from, uint64_t size) noexcept;
  /// The same as Copy with zeros.
  Made Zero(uint64_t page) noexcept;

 private:
  void Serve();

  FaultHandler* maker_;
  int fd_ = -1;
  int quit_ = -1;
  std::thread thread_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_USERFAULT_H_
