#include "memory/pagemap.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "error.h"
#include "memory/region_table.h"

namespace penumbra {

namespace {

// The ABI of include/uapi/linux/fs.h (Linux 6.7); build machines have older headers.
struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
struct PmScanArg {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
constexpr unsigned long kPagemapScan = _IOWR('f', 16, PmScanArg);
constexpr uint64_t kPageIsFile = 1 << 2;
constexpr uint64_t kPageIsPresent = 1 << 3;
constexpr uint64_t kPageIsSwapped = 1 << 4;

constexpr uint64_t kEntryPresent = uint64_t{1} << 63;
constexpr uint64_t kEntrySwapped = uint64_t{1} << 62;
constexpr uint64_t kEntryFile = uint64_t{1} << 61;

bool FindByScan(int fd, uint64_t start, uint64_t end, std::vector<PageRun>* runs) {
  std::array<PageRegion, 256> found;
  while (start < end) {
    PmScanArg arg{};
    arg.size = sizeof arg;
    arg.start = start;
    arg.end = end;
    arg.vec = reinterpret_cast<uint64_t>(found.data());
    arg.vec_len = found.size();
    arg.category_inverted = kPageIsFile;
    arg.category_mask = kPageIsFile;
    arg.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
    arg.return_mask = kPageIsPresent;
    const int count = ioctl(fd, kPagemapScan, &arg);
    if (count < 0) {
      if (errno == ENOTTY || errno == EINVAL) return false;
      throw SystemError("ENGINE", "cannot list private pages");
    }
    for (int i = 0; i < count; ++i) runs->push_back({found[i].start, found[i].end - found[i].start});
    if (arg.walk_end <= start) break;
    start = arg.walk_end;
  }
  return true;
}

void FindByReading(int fd, uint64_t start, uint64_t end, std::vector<PageRun>* runs) {
  std::array<uint64_t, 8192> entries;
  while (start < end) {
    const uint64_t pages = std::min<uint64_t>((end - start) / kPageSize, entries.size());
    const ssize_t got = pread(fd, entries.data(), pages * 8, static_cast<off_t>(start / kPageSize * 8));
    if (got != static_cast<ssize_t>(pages * 8)) throw SystemError("ENGINE", "cannot read /proc/self/pagemap");
    for (uint64_t i = 0; i < pages; ++i) {
      const bool populated = (entries[i] & (kEntryPresent | kEntrySwapped)) != 0;
      if (!populated || (entries[i] & kEntryFile) != 0) continue;
      const uint64_t address = start + i * kPageSize;
      if (!runs->empty() && runs->back().start + runs->back().size == address) {
        runs->back().size += kPageSize;
      } else {
        runs->push_back({address, kPageSize});
      }
    }
    start += pages * kPageSize;
  }
}

}  // namespace

std::vector<PageRun> FindPrivatePages(int pagemap_fd, const uint8_t* start, uint64_t size) {
  std::vector<PageRun> runs;
  const uint64_t begin = reinterpret_cast<uint64_t>(start);
  if (!FindByScan(pagemap_fd, begin, begin + size, &runs)) {
    runs.clear();
    FindByReading(pagemap_fd, begin, begin + size, &runs);
  }
  return runs;
}

}  // namespace penumbra
