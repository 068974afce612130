// Reads and patches kernel memory of one stopped instant.
#ifndef PENUMBRA_NATIVE_SHADOW_KERNEL_READER_H_
#define PENUMBRA_NATIVE_SHADOW_KERNEL_READER_H_

#include <cstdint>
#include <string>

#include "error.h"
#include "memory/page_walk.h"
#include "memory/private_ram.h"
#include "shadow/recipe.h"

namespace penumbra {

/// Every failure is an Error CORRUPT that names what was being read.
class KernelReader {
 public:
  KernelReader(const PrivateRam& memory, const AddressSpace& space) : memory_(memory), space_(space) {}

  template <typename T>
  T Read(uint64_t address, const char* what) const {
    T value;
    if (ReadVirtual(memory_.table(), space_, address, &value, sizeof value) != sizeof value) {
      throw Error("CORRUPT", std::string(what) + " is not mapped", address);
    }
    return value;
  }

  template <typename T>
  bool TryRead(uint64_t address, T* value) const {
    return ReadVirtual(memory_.table(), space_, address, value, sizeof *value) == sizeof *value;
  }

  void Write(uint64_t address, const void* bytes, uint64_t length) const {
    if (WriteVirtual(memory_.table(), space_, address, bytes, length) != length) {
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
  const PrivateRam& memory_;
  AddressSpace space_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_KERNEL_READER_H_
