#include "engine/kvm_statistics.h"

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <vector>

namespace penumbra {

namespace {

// The kernel gives numbers only in the unit of an exponent that its descriptors tell; a counter of exits has neither.
constexpr char kExits[] = "exits";
constexpr uint32_t kMostDescriptors = 1024;
constexpr uint32_t kLongestName = 256;
// Without its name: some versions of the header make it larger for C++ than for the kernel.
constexpr size_t kDescriptorSize = offsetof(kvm_stats_desc, bucket_size) + sizeof(uint32_t);

int64_t FindExits(int file) {
  kvm_stats_header header;
  if (pread(file, &header, sizeof header, 0) != static_cast<ssize_t>(sizeof header)) return -1;
  if (header.num_desc > kMostDescriptors || header.name_size > kLongestName) return -1;
  const size_t size = kDescriptorSize + header.name_size;
  std::vector<char> descriptors(size * header.num_desc);
  const ssize_t got = pread(file, descriptors.data(), descriptors.size(), header.desc_offset);
  if (got != static_cast<ssize_t>(descriptors.size())) return -1;
  for (uint32_t i = 0; i < header.num_desc; ++i) {
    const char* at = descriptors.data() + i * size;
    if (header.name_size < sizeof kExits || std::strncmp(at + kDescriptorSize, kExits, header.name_size) != 0) continue;
    uint32_t offset;
    std::memcpy(&offset, at + offsetof(kvm_stats_desc, offset), sizeof offset);
    return int64_t{header.data_offset} + offset;
  }
  return -1;
}

}  // namespace

KvmStatistics::KvmStatistics(int vcpu) : file_(ioctl(vcpu, KVM_GET_STATS_FD, nullptr)) {
  if (file_.get() >= 0) exits_at_ = FindExits(file_.get());
}

uint64_t KvmStatistics::exits() const {
  uint64_t count = 0;
  if (exits_at_ < 0 || pread(file_.get(), &count, sizeof count, exits_at_) != static_cast<ssize_t>(sizeof count))
    return 0;
  return count;
}

}  // namespace penumbra
