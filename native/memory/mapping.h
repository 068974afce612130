// One mmap with an owner.
#ifndef PENUMBRA_NATIVE_MEMORY_MAPPING_H_
#define PENUMBRA_NATIVE_MEMORY_MAPPING_H_

#include <cstdint>
#include <memory>
#include <utility>

namespace penumbra {

class Mapping {
 public:
  enum class Kind {
    kSharedReadOnly,  ///< sees what the guest writes, cannot write
    kPrivate,         ///< copy-on-write: a write makes a page of our own
    kAnonymous,       ///< zero-filled memory of our own; `fd` and `offset` are ignored
  };

  Mapping();
  /// `offset` and `size` are whole pages of 4 KiB, also where the file consists of larger ones.
  /// Throws Error PERMISSION or ENGINE when the kernel refuses the mapping.
  Mapping(Kind kind, int fd, uint64_t offset, uint64_t size);
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

  /// The file lost its end, and what was touched there reads as zeros now. Never true for anonymous memory.
  bool is_lost() const;

 private:
  class Guard;

  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
  uint8_t* start_ = nullptr;  ///< of the mmap: data_, rounded down to the file's own page size
  uint64_t length_ = 0;
  std::unique_ptr<Guard> guard_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_MAPPING_H_
