// The seccomp filter of a redirected tool.
#ifndef PENUMBRA_NATIVE_REDIRECT_FILTER_H_
#define PENUMBRA_NATIVE_REDIRECT_FILTER_H_

#include <linux/filter.h>

#include <vector>

#include "redirect/policy.h"

namespace penumbra {

/// Lets the policy's free calls pass, gives ENOSYS to absent ones and to numbers that no table has, asks about the
/// rest; ends a program that makes 32-bit calls. mmap of anonymous memory passes as well.
std::vector<sock_filter> BuildFilter(const Policy& policy);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_FILTER_H_
