// The vDSO answers for the time without a system call, and its answer is the host's.
#ifndef PENUMBRA_NATIVE_REDIRECT_CLOCK_PAGE_H_
#define PENUMBRA_NATIVE_REDIRECT_CLOCK_PAGE_H_

#include <cstdint>

#include "redirect/tool_memory.h"

namespace penumbra {

/// Overwrites the clock functions of the vDSO at `base` by system calls, in this process's own copy of it. Works for
/// every way of finding them. Returns false when that could not be done.
bool RedirectClockPage(const ToolMemory& memory, uint64_t base);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_CLOCK_PAGE_H_
