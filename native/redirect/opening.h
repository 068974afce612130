// What a tool asks at first.
#ifndef PENUMBRA_NATIVE_REDIRECT_OPENING_H_
#define PENUMBRA_NATIVE_REDIRECT_OPENING_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "redirect/past_run.h"
#include "redirect/question.h"

namespace penumbra {

/// Keeps the first questions of a run, as far as the next run of the same program can be expected to ask them as well.
class Opening {
 public:
  /// `values` are what the calls returned, negative without an answer.
  void Note(const Question& question, const std::vector<int64_t>& values, bool can_be_planned);
  /// A file is no more.
  void NoteClosed(uint64_t file) { openers_.NoteClosed(file); }

  /// How many were noted.
  size_t size() const { return noted_.size(); }
  /// Of the first so many what can be planned.
  std::vector<PlannedQuestion> Take(size_t size) const;

 private:
  struct Noted {
    PlannedQuestion planned;
    bool can_be_planned;
  };

  std::vector<Noted> noted_;
  Openers openers_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_OPENING_H_
