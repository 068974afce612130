// How many times the guest's kernel has patched its own text.
#ifndef PENUMBRA_NATIVE_SHADOW_CODE_VERSION_H_
#define PENUMBRA_NATIVE_SHADOW_CODE_VERSION_H_

#include <cstdint>
#include <optional>

#include "memory/guest_ram.h"
#include "memory/region_table.h"
#include "shadow/recipe.h"

namespace penumbra {

/// The counter that Recipe::code_version tells of. It says nothing of text that somebody else has changed: a rootkit.
class CodeVersion {
 public:
  CodeVersion(const GuestRam& ram, const Recipe& recipe) : ram_(ram), recipe_(recipe) {}

  /// As it is in the guest now; nothing where there is no such counter.
  std::optional<uint64_t> InGuest();

  /// As code that runs in `memory`, a copy of the guest's, has left it.
  std::optional<uint64_t> In(const RegionTable& memory);

 private:
  bool Find();

  const GuestRam& ram_;
  const Recipe& recipe_;
  std::optional<uint64_t> gpa_;  ///< the kernel sets it up once
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_CODE_VERSION_H_
