#include "redirect/past_run.h"

#include <algorithm>
#include <utility>

namespace penumbra {

namespace {

constexpr size_t kMostRuns = 16;

}  // namespace

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
