// Reads and patches kernel memory of one stopped instant.
#ifndef PENUMBRA_NATIVE_SHADOW_KERNEL_READER_H_
#define PENUMBRA_NATIVE_SHADOW_KERNEL_READER_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <string>

#include "error.h"
#include "memory/page_walk.h"
#include "memory/private_ram.h"
#include "shadow/recipe.h"

namespace penumbra {

/// Every failure is an Error CORRUPT that names what was being read. Remembers where pages are: for as long as the
/// kernel's page tables stay as they are.
class KernelReader {
 public:
  KernelReader(const PrivateRam& memory, const AddressSpace& space) : memory_(memory), space_(space) {}

  template <typename T>
  T Read(uint64_t address, const char* what) const {
    T value;
    if (!TryRead(address, &value)) throw Error("CORRUPT", std::string(what) + " is not mapped", address);
    return value;
  }

  template <typename T>
  bool TryRead(uint64_t address, T* value) const {
    return TryCopy(address, value, sizeof *value);
  }

  bool TryCopy(uint64_t address, void* out, uint64_t length) const {
    if (const uint8_t* const host = Find(address, length)) {
      std::memcpy(out, host, length);
      return true;
    }
    return ReadVirtual(memory_.table(), space_, address, out, length) == length;
  }

  void Write(uint64_t address, const void* bytes, uint64_t length) const {
    if (uint8_t* const host = Find(address, length)) {
      std::memcpy(host, bytes, length);
    } else if (WriteVirtual(memory_.table(), space_, address, bytes, length) != length) {
      throw Error("CORRUPT", "a member to be patched is not mapped", address);
    }
  }

  uint64_t Resolve(const Location& where, uint64_t per_cpu_base, uint64_t task) const {
    uint64_t address = where.offset;
    if (where.base == Location::Base::kPerCpu) address += per_cpu_base;
    if (where.base == Location::Base::kTask) address += task;
    if (where.indirect) address = Read<uint64_t>(address, "a pointer on the way to a patch") + where.indirect_offset;
    return address;
  }

 private:
  // What is read of one kernel lies in a few pages: a task, its mm, the area of a CPU, the timekeeper.
  static constexpr size_t kPages = 16;
  struct Page {
    uint64_t address = 1;  ///< of none
    uint8_t* host = nullptr;
  };

  uint8_t* Find(uint64_t address, uint64_t length) const {
    const uint64_t offset = address & kPageMask;
    if (length > kPageSize - offset) return nullptr;
    Page& page = pages_[(address / kPageSize) % kPages];
    if (page.address != address - offset) {
      uint8_t* const host = VirtualAt(memory_.table(), space_, address - offset, kPageSize);
      if (host == nullptr) return nullptr;
      page = {address - offset, host};
    }
    return page.host + offset;
  }

  const PrivateRam& memory_;
  AddressSpace space_;
  mutable std::array<Page, kPages> pages_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_KERNEL_READER_H_
