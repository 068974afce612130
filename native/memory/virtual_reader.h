// Guest-virtual memory of the live guest at native speed: a small cache of translations, and bulk reads.
#ifndef PENUMBRA_NATIVE_MEMORY_VIRTUAL_READER_H_
#define PENUMBRA_NATIVE_MEMORY_VIRTUAL_READER_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/page_walk.h"

namespace penumbra {

/// Reads through one page table root. What it translated it knows until Forget(): a guest that runs may change its
/// tables at any time, so the owner calls that before each read of a running guest, and at each resume.
/// Not thread-safe.
class VirtualReader {
 public:
  struct Request {
    uint64_t address;
    uint64_t length;
  };
  /// A part of a range that cannot be read, and why. `translation.page_size` covers no more than the entry that says
  /// so.
  struct Hole {
    uint64_t address;
    uint64_t size;
    WalkResult result;
    uint64_t entry;
  };
  struct Counts {
    uint64_t hits;
    uint64_t misses;
  };

  /// `ram` must outlive the reader.
  VirtualReader(const GuestRam& ram, const AddressSpace& space);
  ~VirtualReader();

  const AddressSpace& space() const { return space_; }

  /// Drops every cached translation.
  void Forget();

  /// Reads a little-endian word; false when it cannot be read as a whole.
  template <typename T>
  bool Load(uint64_t address, T* value) {
    const uint64_t offset = address & kPageMask;
    const Entry& entry = entries_[(address >> 12) & kEntryMask];
    if (entry.tag == TagOf(address) && offset <= kPageSize - sizeof(T)) [[likely]] {
      ++counts_.hits;
      std::memcpy(value, reinterpret_cast<const void*>(entry.place + offset), sizeof(T));
      return true;
    }
    return LoadMissed(address, value, sizeof(T));
  }

  /// Copies [address, address + length). Returns the number of bytes before the first that is not readable.
  uint64_t Read(uint64_t address, void* out, uint64_t length);

  /// Copies all that is readable of [address, address + length), zeros for the rest, which it lists.
  std::vector<Hole> ReadPresent(uint64_t address, void* out, uint64_t length);

  /// Reads each request behind the one before it into `out` and says for each how many bytes were read. Bytes that were
  /// not are zeros.
  void ReadScattered(std::span<const Request> requests, void* out, uint64_t* lengths);

  /// Reads a little-endian word from each address. Returns the indices of those that could not be read, whose values
  /// are 0.
  std::vector<uint32_t> LoadAll(std::span<const uint64_t> addresses, uint64_t* values);

  /// Host address of [address, address + length) where it is contiguous and mapped, otherwise nullptr: no copy at all.
  /// Valid as long as the guest stands still.
  const uint8_t* At(uint64_t address, uint64_t length);

  Translation Translate(uint64_t address) const { return penumbra::Translate(ram_, space_, address); }

  /// How often a page's translation was known, and how often it was not.
  const Counts& counts() const { return counts_; }

 private:
  static constexpr size_t kEntries = 16384;  ///< pages: 64 MiB of neighbours
  static constexpr uint64_t kEntryMask = kEntries - 1;
  static constexpr size_t kDirectories = 64;
  static constexpr int kTagBits = 52;  // a page number

  // A page that is mapped in this process. The generation is part of the tag, so that forgetting costs nothing.
  struct Entry {
    uint64_t tag;
    uint64_t place;
  };
  // The table of the lowest level for 2 MiB of addresses: the guest's own, or a copy.
  struct Directory {
    uint64_t tag = 0;
    const uint64_t* table = nullptr;
    std::unique_ptr<std::array<uint64_t, 512>> copy;
  };
  class Gathering;

  uint64_t TagOf(uint64_t address) const { return address >> 12 | generation_ << kTagBits; }
  // Where the byte at `address` is and how much of its page follows; 0 bytes where nothing can be read.
  GuestRam::Place Locate(uint64_t address);
  GuestRam::Place LocateMissed(uint64_t address);
  bool LoadMissed(uint64_t address, void* value, size_t size);
  Translation Walk(uint64_t address);

  const GuestRam& ram_;
  AddressSpace space_;
  std::unique_ptr<Entry[]> entries_;
  std::array<Directory, kDirectories> directories_;
  uint64_t generation_ = 1;
  Counts counts_{};
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_MEMORY_VIRTUAL_READER_H_
