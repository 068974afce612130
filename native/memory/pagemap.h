// Which pages of a private file mapping have become anonymous, that is, our own.
#ifndef PENUMBRA_NATIVE_MEMORY_PAGEMAP_H_
#define PENUMBRA_NATIVE_MEMORY_PAGEMAP_H_

#include <cstdint>
#include <vector>

namespace penumbra {

struct PageRun {
  uint64_t start;  ///< host address
  uint64_t size;   ///< bytes
};

/// Runs of private pages in [start, start + size) of this process, by the PAGEMAP_SCAN ioctl (Linux 6.7) or by
/// reading /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). `pagemap_fd` is /proc/self/pagemap.
/// Throws Error ENGINE.
std::vector<PageRun> FindPrivatePages(int pagemap_fd, const uint8_t* start, uint64_t size);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_PAGEMAP_H_
