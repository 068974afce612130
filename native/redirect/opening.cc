#include "redirect/opening.h"

#include <algorithm>
#include <optional>

namespace penumbra {

namespace {

constexpr size_t kMost = 48;  // each may hold a file of the guest open

}  // namespace

void Opening::Note(const Question& question, const std::vector<int64_t>& values, bool can_be_planned) {
  if (noted_.size() == kMost) return;
  Noted noted{{question, {}}, can_be_planned};
  for (size_t i = 0; i < question.calls.size(); ++i) {
    const Question::Call& call = question.calls[i];
    if (!DependsOnFile(call)) continue;
    if (const std::optional<FileLink> link = openers_.Find(i, call)) {
      noted.planned.links.push_back(*link);
    } else {
      noted.can_be_planned = false;
    }
  }
  openers_.Note(noted_.size(), question, values);
  noted_.push_back(std::move(noted));
}

std::vector<PlannedQuestion> Opening::Take(size_t size) const {
  std::vector<PlannedQuestion> list;
  std::vector<std::optional<size_t>> places(noted_.size());
  for (size_t i = 0; i < std::min(size, noted_.size()); ++i) {
    if (!noted_[i].can_be_planned) continue;
    PlannedQuestion planned = noted_[i].planned;
    const bool is_whole = std::all_of(planned.links.begin(), planned.links.end(),
                                      [&](const FileLink& link) { return places[link.from_question].has_value(); });
    if (!is_whole) continue;
    for (FileLink& link : planned.links) link.from_question = *places[link.from_question];
    places[i] = list.size();
    list.push_back(std::move(planned));
  }
  return list;
}

}  // namespace penumbra
