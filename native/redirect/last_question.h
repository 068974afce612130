// The question that a tool asked last, and what came back.
#ifndef PENUMBRA_NATIVE_REDIRECT_LAST_QUESTION_H_
#define PENUMBRA_NATIVE_REDIRECT_LAST_QUESTION_H_

#include <cstdint>
#include <string>
#include <vector>

namespace penumbra {

/// Programs ask about a file and then a library of theirs does, in the same words. A guest that stands, asked twice in
/// a row for what changes nothing, says the same: one question in between, and this is forgotten.
struct LastQuestion {
  uint64_t registers[6] = {};
  uint32_t number = 0;
  std::string texts;           ///< that the arguments point to
  std::vector<uint8_t> bytes;  ///< of the buffers, one after the other
  int64_t value = -1;          ///< negative: there is no such question
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_LAST_QUESTION_H_
