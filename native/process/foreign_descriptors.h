// Open files of another process.
#ifndef PENUMBRA_NATIVE_PROCESS_FOREIGN_DESCRIPTORS_H_
#define PENUMBRA_NATIVE_PROCESS_FOREIGN_DESCRIPTORS_H_

#include <sys/types.h>

#include <vector>

namespace penumbra {

/// Duplicates descriptors of process `pid`, close-on-exec (pidfd_getfd(2)). Throws Error("PERMISSION") where that
/// process may not be traced, "GUEST_GONE" when it has ended or closed one of them, "UNSUPPORTED" before Linux 5.6.
std::vector<int> DuplicateFrom(pid_t pid, const std::vector<int>& numbers);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_FOREIGN_DESCRIPTORS_H_
