#include "redirect/past_run.h"

#include <algorithm>
#include <utility>

namespace penumbra {

namespace {

constexpr size_t kMostRuns = 16;

}  // namespace

void Openers::Note(size_t index, const Question& question, const std::vector<int64_t>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (question.calls[i].shape->opens && values[i] >= 0) openers_[static_cast<uint64_t>(values[i])] = {index, i};
  }
}

std::optional<FileLink> Openers::Find(size_t call_index, const Question::Call& call) const {
  const auto from = openers_.find(call.arguments[call.shape->file]);
  if (from == openers_.end()) return std::nullopt;
  return FileLink{call_index, call.shape->file, from->second.first, from->second.second};
}

std::shared_ptr<const PastRun> PastRuns::Find(const std::string& command_line) {
  const auto found =
      std::find_if(runs_.begin(), runs_.end(), [&](const auto& entry) { return entry.first == command_line; });
  if (found == runs_.end()) return nullptr;
  runs_.splice(runs_.begin(), runs_, found);
  return found->second;
}

void PastRuns::Keep(const std::string& command_line, PastRun run) {
  runs_.remove_if([&](const auto& entry) { return entry.first == command_line; });
  runs_.emplace_front(command_line, std::make_shared<const PastRun>(std::move(run)));
  if (runs_.size() > kMostRuns) runs_.pop_back();
}

}  // namespace penumbra
