// Notices that guest code changed after it was translated.
#ifndef PENUMBRA_NATIVE_SHADOW_CODE_WATCH_H_
#define PENUMBRA_NATIVE_SHADOW_CODE_WATCH_H_

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/engine.h"
#include "memory/guest_ram.h"
#include "shadow/code_version.h"
#include "shadow/recipe.h"

namespace penumbra {

/// Keeps copies of the pages that hold translated code. Where the kernel counts its own text patches the copies of
/// kernel text are compared only when the count has moved.
class CodeWatch {
 public:
  /// All three must outlive it.
  CodeWatch(const GuestRam& ram, const Recipe& recipe, CodeVersion* version)
      : ram_(ram), recipe_(recipe), version_(version) {}

  /// Remembers the content of pages of which code was translated just now. Scratch pages are left out.
  void Add(const std::vector<CodePage>& pages);

  /// Whether translated code came from the page that holds `gpa`.
  bool Covers(uint64_t gpa) const;

  /// True when a remembered page no longer has its content; then everything remembered is forgotten.
  bool Changed();

 private:
  struct Copy {
    uint64_t gpa;
    std::array<uint8_t, kPageSize> bytes;
  };
  bool Differs(const std::vector<Copy>& copies) const;

  const GuestRam& ram_;
  const Recipe& recipe_;
  std::vector<Copy> text_;    ///< pages that the version counter speaks for
  std::vector<Copy> others_;  ///< modules, BPF programs
  CodeVersion* version_;
  std::optional<uint64_t> text_version_;  ///< when `text_` was last the guest's
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_CODE_WATCH_H_
