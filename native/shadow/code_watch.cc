#include "shadow/code_watch.h"

#include <algorithm>
#include <cstring>

namespace penumbra {

void CodeWatch::Add(const std::vector<CodePage>& pages) {
  if (pages.empty()) return;
  if (text_.empty()) text_version_ = version_->InGuest();
  for (const CodePage& page : pages) {
    if (ram_.Left(page.gpa) < kPageSize) continue;
    const bool counted = page.address >= recipe_.text_start && page.address < recipe_.text_end;
    Copy& copy = (counted ? text_ : others_).emplace_back();
    copy.gpa = page.gpa;
    ram_.Read(page.gpa, copy.bytes.data(), kPageSize);
  }
}

bool CodeWatch::Covers(uint64_t gpa) const {
  const auto is_it = [page = gpa & ~kPageMask](const Copy& copy) { return copy.gpa == page; };
  return std::any_of(text_.begin(), text_.end(), is_it) || std::any_of(others_.begin(), others_.end(), is_it);
}

bool CodeWatch::Changed() {
  if (text_.empty() && others_.empty()) return false;
  const std::optional<uint64_t> version = version_->InGuest();
  const bool text_may_differ = !version || version != text_version_;
  const bool changed = Differs(others_) || (text_may_differ && Differs(text_));
  text_version_ = version;
  if (changed) {
    text_.clear();
    others_.clear();
  }
  return changed;
}

bool CodeWatch::Differs(const std::vector<Copy>& copies) const {
  std::vector<const Copy*> unmapped;
  for (const Copy& copy : copies) {
    const uint8_t* host = ram_.At(copy.gpa, kPageSize);
    if (host == nullptr) {
      unmapped.push_back(&copy);
    } else if (std::memcmp(host, copy.bytes.data(), kPageSize) != 0) {
      return true;
    }
  }
  std::vector<uint8_t> bytes(unmapped.size() * kPageSize);
  std::vector<GuestRam::Piece> pieces;
  for (size_t i = 0; i < unmapped.size(); ++i) {
    pieces.push_back({unmapped[i]->gpa, bytes.data() + i * kPageSize, kPageSize});
  }
  if (ram_.CopyScattered(pieces) < pieces.size()) return true;
  for (size_t i = 0; i < unmapped.size(); ++i) {
    if (std::memcmp(pieces[i].out, unmapped[i]->bytes.data(), kPageSize) != 0) return true;
  }
  return false;
}

}  // namespace penumbra
