// One mmap with an owner.
#ifndef PENUMBRA_NATIVE_MEMORY_MAPPING_H_
#define PENUMBRA_NATIVE_MEMORY_MAPPING_H_

#include <cstdint>
#include <utility>

namespace penumbra {

class Mapping {
 public:
  enum class Kind {
    kSharedReadOnly,  ///< sees what the guest writes, cannot write
    kPrivate,         ///< copy-on-write: a write makes a page of our own
    kAnonymous,       ///< zero-filled memory of our own; `fd` and `offset` are ignored
  };

  Mapping() = default;
  /// Throws Error PERMISSION or ENGINE when the kernel refuses the mapping.
  Mapping(Kind kind, int fd, uint64_t offset, uint64_t size);
  ~Mapping();
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_MAPPING_H_
