// What a guest is asked, in a form that can be compared and asked again about something else.
#ifndef PENUMBRA_NATIVE_REDIRECT_QUESTION_H_
#define PENUMBRA_NATIVE_REDIRECT_QUESTION_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "redirect/guest_kernel.h"

namespace penumbra {

/// What the arguments of a system call mean. An index of kNone: it has none of these.
struct CallShape {
  static constexpr uint8_t kNone = 0xff;

  uint32_t number;
  uint8_t arguments;       ///< how many it has
  uint8_t file = kNone;    ///< the file that it is about, of calls with a path the directory
  uint8_t text = kNone;    ///< its path
  uint8_t out = kNone;     ///< what it fills
  uint8_t length = kNone;  ///< the argument that tells how much of it
  uint32_t bytes = 0;      ///< or how much that always is
  bool opens = false;      ///< returns a new file
  bool reads = false;      ///< from the file, and may move it

  /// Bytes of what it fills.
  uint64_t Room(const uint64_t (&given)[6]) const { return length == kNone ? bytes : given[length]; }
  /// Bytes of what it filled when it returned `value`.
  uint64_t Filled(const uint64_t (&given)[6], int64_t value) const;
};

/// A list of calls that change nothing but which files are open and where they are read.
struct Question {
  struct Call {
    const CallShape* shape;
    uint64_t arguments[6];  ///< zero where they are places in the window, a result of an earlier call, or ignored
    std::string text;
    uint8_t result_argument = GuestCall::kNone;
    uint8_t result_of = 0;

    bool operator==(const Call& other) const;
  };
  std::vector<Call> calls;
};

enum class QuestionKind {
  kKnown,     ///< it has been described
  kHarmless,  ///< it has not, but changes nothing that others could be told
  kOther,
};

/// Whether the number of a file means anything to the call.
bool DependsOnFile(const Question::Call& call);

/// Describes calls whose pointers lie in the window.
QuestionKind Describe(const GuestCall* calls, size_t count, const GuestWindow& window, Question* question);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_QUESTION_H_
