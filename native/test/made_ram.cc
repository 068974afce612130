#include "test/made_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test/check.h"

namespace penumbra::test {

MadeRam::MadeRam(std::vector<MadeRegion> regions) : regions_(std::move(regions)) {
  for (const MadeRegion& region : regions_) size_ += region.pages * kPageSize;
  fd_ = memfd_create("made ram", MFD_CLOEXEC);
  memory_fd_ = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
  if (fd_ < 0 || memory_fd_ < 0 || ftruncate(fd_, static_cast<off_t>(size_)) != 0)
    throw Failure("no memory for a test");
  void* const mapped = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  if (mapped == MAP_FAILED) throw Failure("no memory for a test");
  host_ = static_cast<uint8_t*>(mapped);
  for (size_t i = 0; i < regions_.size(); ++i) {
    table_.Add({regions_[i].gpa, regions_[i].pages * kPageSize, host_ + OffsetOf(i)});
  }
}

MadeRam::~MadeRam() {
  munmap(host_, size_);
  close(fd_);
  close(memory_fd_);
}

void MadeRam::Store(uint64_t gpa, uint64_t word) const { std::memcpy(At(gpa), &word, sizeof word); }

std::vector<RamDescriptor> MadeRam::Mapped() const {
  std::vector<RamDescriptor> descriptors;
  for (size_t i = 0; i < regions_.size(); ++i) {
    RamDescriptor descriptor{};
    descriptor.gpa = regions_[i].gpa;
    descriptor.size = regions_[i].pages * kPageSize;
    descriptor.fd = fd_;
    descriptor.offset = OffsetOf(i);
    descriptor.sparse = true;
    descriptors.push_back(descriptor);
  }
  return descriptors;
}

std::vector<RamDescriptor> MadeRam::Copied() const {
  std::vector<RamDescriptor> descriptors = Mapped();
  for (RamDescriptor& descriptor : descriptors) descriptor.copied = true;
  return descriptors;
}

std::vector<RamDescriptor> MadeRam::Foreign() const {
  std::vector<RamDescriptor> descriptors = Mapped();
  for (RamDescriptor& descriptor : descriptors) {
    descriptor.fd = memory_fd_;
    descriptor.offset += reinterpret_cast<uint64_t>(host_);
    descriptor.foreign = true;
    descriptor.sparse = false;
    descriptor.pid = getpid();
  }
  return descriptors;
}

std::vector<RamDescriptor> MadeRam::Mixed() const {
  std::vector<RamDescriptor> descriptors = Mapped();
  const std::vector<RamDescriptor> foreign = Foreign();
  for (size_t i = 1; i < descriptors.size(); i += 2) descriptors[i] = foreign[i];
  return descriptors;
}

void MadeRam::Unplug() {
  const MadeRegion& last = regions_.back();
  // Safe: nothing else lies there, and the destructor may unmap it again.
  munmap(host_ + OffsetOf(regions_.size() - 1), last.pages * kPageSize);
}

uint64_t MadeRam::OffsetOf(size_t index) const {
  uint64_t offset = 0;
  for (size_t i = 0; i < index; ++i) offset += regions_[i].pages * kPageSize;
  return offset;
}

}  // namespace penumbra::test
