// What was foreseen: found again when it is asked, and undone when it is not.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "redirect/foresight.h"

namespace penumbra {

namespace {

constexpr size_t kMostGroups = 12, kFewGroups = 6;
constexpr size_t kMostSlots = 96;  // each may hold a file of the guest open
// Before the tool has come to what it goes through there is time.
constexpr size_t kMostGroupsAtFirst = 40, kMostSlotsAtFirst = 240;
constexpr uint64_t kTrial = 128;

}  // namespace

Foresight::Place Foresight::Find(const Question& question) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const std::shared_ptr<Group> group = groups_[g];
    for (size_t i = 0; i < group->slots.size(); ++i) {
      const Slot& slot = group->slots[i];
      if (slot.state == Slot::kTaken || !slot.planned.links.empty() || slot.planned.question.calls != question.calls)
        continue;
      if (HasReadBefore(*group, i)) return {};
      // The tool has gone on to this entry.
      for (; g > 0; --g) {
        DropGroup(*groups_.front());
        groups_.pop_front();
      }
      return {group, i};
    }
  }
  return {};
}

// A file is read in its order: what the slot gives is behind what another one does that nobody has asked for.
bool Foresight::HasReadBefore(const Group& group, size_t index) {
  const auto slots = group.slots.begin();
  const auto end = slots + static_cast<long>(index);
  return ReadFile(*end) && std::any_of(slots, end, [&](const Slot& slot) {
           return slot.state != Slot::kTaken && ReadFile(slot) == ReadFile(*end);
         });
}

/// The file that the question moves by reading, when it is known.
std::optional<uint64_t> Foresight::ReadFile(const Slot& slot) {
  const Question::Call& call = slot.planned.question.calls.front();
  if (call.shape->number != SYS_read || !slot.planned.links.empty()) return std::nullopt;
  return call.arguments[call.shape->file];
}

// What was foreseen about the file that had this number is not about the one that will.
void Foresight::NoteClosed(Lock& lock, uint64_t file) {
  pattern_.NoteClosed(file);
  for (size_t g = 0; g < groups_.size(); ++g) {
    const std::shared_ptr<Group> group = groups_[g];
    for (Slot& slot : group->slots) {
      if (slot.state == Slot::kTaken || !Uses(slot, file)) continue;
      Await(lock, [&] { return slot.state != Slot::kRunning; });
      const bool was_done = slot.state == Slot::kDone;
      slot.state = Slot::kTaken;
      for (const uint64_t opened : was_done ? Opened(slot) : std::vector<uint64_t>()) NoteClosed(lock, opened);
      slot.answers.clear();
    }
  }
  Queue(SYS_close, file);
}

bool Foresight::Uses(const Slot& slot, uint64_t file) {
  const std::vector<Question::Call>& calls = slot.planned.question.calls;
  return slot.planned.links.empty() && std::any_of(calls.begin(), calls.end(), [&](const Question::Call& call) {
           return DependsOnFile(call) && call.arguments[call.shape->file] == file;
         });
}

// What was read ahead has moved a file that the tool is going to ask something else about.
void Foresight::TakeBackReads(Lock& lock, std::optional<uint64_t> file) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const std::shared_ptr<Group> group = groups_[g];
    for (auto slot = group->slots.rbegin(); slot != group->slots.rend(); ++slot) {
      const std::optional<uint64_t> read = ReadFile(*slot);
      if (!read || slot->state == Slot::kTaken || (file && read != file)) continue;
      Await(lock, [&] { return slot->state != Slot::kRunning; });
      if (slot->state == Slot::kDone) Undo(*slot);
      slot->state = Slot::kTaken;
    }
  }
}

// Files are closed, and moved back to where the tool believes them to be.
void Foresight::Undo(const Slot& slot) {
  for (const uint64_t file : Opened(slot)) {
    pattern_.NoteClosed(file);
    Queue(SYS_close, file);
  }
  const std::optional<uint64_t> read = ReadFile(slot);
  if (!read || slot.answers.empty() || slot.answers.front().failed || slot.answers.front().value <= 0) return;
  Queue(SYS_lseek, *read, static_cast<uint64_t>(-slot.answers.front().value), SEEK_CUR);
}

std::vector<uint64_t> Foresight::Opened(const Slot& slot) {
  std::vector<uint64_t> files;
  for (size_t i = 0; i < slot.answers.size(); ++i) {
    const Answer& answer = slot.answers[i];
    if (slot.planned.question.calls[i].shape->opens && !answer.failed && answer.value >= 0) {
      files.push_back(static_cast<uint64_t>(answer.value));
    }
  }
  return files;
}

void Foresight::Queue(uint32_t number, uint64_t a, uint64_t b, uint64_t c) { queued_.push_back({number, {a, b, c}}); }

void Foresight::Extend() {
  if (wasted_ > kTrial && wasted_ > 2 * foreseen_) is_off_ = true;
  const bool at_first = !groups_.empty() && groups_.front()->is_opening;
  const size_t few = at_first ? kMostGroupsAtFirst - 1 : kFewGroups;
  if (IsOff() || usual_ns_ < worthwhile_ns_ || groups_.size() > few) return;
  const size_t most_groups = at_first ? kMostGroupsAtFirst : kMostGroups;
  const size_t most_slots = at_first ? kMostSlotsAtFirst : kMostSlots;
  size_t slots = 0;
  for (const std::shared_ptr<Group>& group : groups_) slots += group->slots.size();
  bool is_new = false;
  while (groups_.size() < most_groups && slots < most_slots) {
    std::optional<std::vector<PlannedQuestion>> plan = pattern_.Plan();
    if (!plan) break;
    const auto group = std::make_shared<Group>();
    for (PlannedQuestion& planned : *plan) {
      group->slots.emplace_back();
      group->slots.back().planned = std::move(planned);
    }
    slots += group->slots.size();
    groups_.push_back(group);
    is_new = true;
  }
  if (is_new && !thread_.joinable()) Start();
}

// Questions about what this one opened can be asked now.
void Foresight::ResolveLinks(Group& group, size_t index) {
  const std::vector<Answer>& answers = group.slots[index].answers;
  for (size_t i = index + 1; i < group.slots.size(); ++i) {
    Slot& slot = group.slots[i];
    std::vector<FileLink>& links = slot.planned.links;
    for (auto link = links.begin(); link != links.end();) {
      const bool is_known = link->from_question == index && link->from_call < answers.size() &&
                            !answers[link->from_call].failed && answers[link->from_call].value >= 0;
      if (!is_known) {
        ++link;
        continue;
      }
      slot.planned.question.calls[link->call].arguments[link->argument] =
          static_cast<uint64_t>(answers[link->from_call].value);
      link = links.erase(link);
    }
  }
}

void Foresight::DropGroup(Group& group) {
  group.dropped = true;
  // What was read last is taken back first, and before its file is closed.
  for (auto slot = group.slots.rbegin(); slot != group.slots.rend(); ++slot) {
    if (slot->state != Slot::kDone) continue;
    ++wasted_;
    Undo(*slot);
  }
}

void Foresight::DropAll() {
  for (const std::shared_ptr<Group>& group : groups_) DropGroup(*group);
  groups_.clear();
}

void Foresight::DropOutdated() {
  if (pattern_.generation() == generation_) return;
  generation_ = pattern_.generation();
  std::erase_if(groups_, [this](const std::shared_ptr<Group>& group) {
    if (!group->is_opening) DropGroup(*group);
    return !group->is_opening;
  });
}

}  // namespace penumbra
