#include "shadow/code_watch.h"

#include <algorithm>
#include <cstring>

namespace penumbra {

void CodeWatch::Add(const std::vector<CodePage>& pages) {
  if (pages.empty()) return;
  if (text_.empty()) version_ = ReadVersion();
  for (const CodePage& page : pages) {
    const uint8_t* host = ram_.table().At(page.gpa, kPageSize);
    if (host == nullptr) continue;
    const bool counted = page.address >= recipe_.text_start && page.address < recipe_.text_end;
    Copy& copy = (counted ? text_ : others_).emplace_back();
    copy.gpa = page.gpa;
    std::memcpy(copy.bytes.data(), host, kPageSize);
  }
}

bool CodeWatch::Changed() {
  const std::optional<uint64_t> version = ReadVersion();
  const bool text_may_differ = !version || version != version_;
  const bool changed = Differs(others_) || (text_may_differ && Differs(text_));
  version_ = version;
  if (changed) {
    text_.clear();
    others_.clear();
  }
  return changed;
}

std::optional<uint64_t> CodeWatch::ReadVersion() const {
  if (!recipe_.code_version || !recipe_.code_version->indirect) return std::nullopt;
  const AddressSpace space{recipe_.kernel_root, recipe_.levels};
  uint64_t pointer;
  uint64_t version;
  if (ReadVirtual(ram_.table(), space, recipe_.code_version->offset, &pointer, sizeof pointer) != sizeof pointer ||
      ReadVirtual(ram_.table(), space, pointer + recipe_.code_version->indirect_offset, &version, sizeof version) !=
          sizeof version) {
    return std::nullopt;
  }
  return version;
}

bool CodeWatch::Differs(const std::vector<Copy>& copies) const {
  return std::any_of(copies.begin(), copies.end(), [this](const Copy& copy) {
    return std::memcmp(ram_.table().At(copy.gpa, kPageSize), copy.bytes.data(), kPageSize) != 0;
  });
}

}  // namespace penumbra
