#include "shadow/batch.h"

#include <cstring>

#include "error.h"

namespace penumbra {

namespace {

void Require(bool condition) {
  if (!condition) throw Error("BAD_ARGUMENT", "malformed batch of calls");
}

}  // namespace

Batch::Batch(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size) {
  Require(size >= sizeof header_ && reinterpret_cast<uintptr_t>(bytes) % alignof(StepRecord) == 0);
  std::memcpy(&header_, bytes, sizeof header_);
  Require(payload_offset() <= size);
  steps_ = reinterpret_cast<const StepRecord*>(bytes + steps_offset());
  arguments_ = reinterpret_cast<const ArgumentRecord*>(bytes + arguments_offset());
  fixups_ = reinterpret_cast<const FixupRecord*>(bytes + fixups_offset());
  for (uint32_t i = 0; i < header_.step_count; ++i) {
    const StepRecord& step = steps_[i];
    Require(step.argument_count <= kMaxArguments && step.first_argument <= header_.argument_count &&
            step.argument_count <= header_.argument_count - step.first_argument);
    for (uint32_t k = 0; k < step.argument_count; ++k) {
      const ArgumentRecord& argument = arguments_[step.first_argument + k];
      Require(argument.kind != ArgumentRecord::kResult || argument.value < i);
    }
  }
  for (uint32_t i = 0; i < header_.argument_count; ++i) {
    const ArgumentRecord& argument = arguments_[i];
    Require(argument.kind <= ArgumentRecord::kResult);
    if (argument.kind == ArgumentRecord::kIn || argument.kind == ArgumentRecord::kInOut) {
      Require(argument.payload >= payload_offset() && argument.payload <= size &&
              argument.size <= size - argument.payload);
    }
    Require(argument.fixups <= header_.fixup_count && argument.fixup_count <= header_.fixup_count - argument.fixups);
    for (uint32_t k = 0; k < argument.fixup_count; ++k) {
      const FixupRecord& fixup = fixups_[argument.fixups + k];
      Require(argument.size >= 8 && fixup.offset <= argument.size - 8 && fixup.target <= argument.size);
    }
  }
}

}  // namespace penumbra
