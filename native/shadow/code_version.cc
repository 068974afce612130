#include "shadow/code_version.h"

#include <cstring>

#include "memory/page_walk.h"

namespace penumbra {

std::optional<uint64_t> CodeVersion::InGuest() {
  uint64_t version;
  if (!Find() || !ram_.Copy(*gpa_, &version, sizeof version)) return std::nullopt;
  return version;
}

std::optional<uint64_t> CodeVersion::In(const RegionTable& memory) {
  uint64_t version;
  if (!Find()) return std::nullopt;
  const uint8_t* const host = memory.At(*gpa_, sizeof version);
  if (host == nullptr) return std::nullopt;
  std::memcpy(&version, host, sizeof version);
  return version;
}

bool CodeVersion::Find() {
  if (gpa_) return true;
  if (!recipe_.code_version || !recipe_.code_version->indirect) return false;
  const AddressSpace space{recipe_.kernel_root, recipe_.levels};
  uint64_t pointer;
  if (ReadVirtual(ram_, space, recipe_.code_version->offset, &pointer, sizeof pointer) != sizeof pointer) return false;
  const Translation translation = Translate(ram_, space, pointer + recipe_.code_version->indirect_offset);
  if (!translation.mapped() || ram_.Left(translation.gpa) < sizeof(uint64_t)) return false;
  gpa_ = translation.gpa;
  return true;
}

}  // namespace penumbra
