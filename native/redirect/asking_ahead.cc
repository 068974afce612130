// The thread that asks what was foreseen.
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <system_error>
#include <utility>

#include "redirect/foresight.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kHeldUp(1);
constexpr uint32_t kMostHeldUp = 2;

/// Of the processor.
std::chrono::nanoseconds ThreadTime() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

void Foresight::Start() {
  cpu_set_t others = allowed_;
  CPU_CLR(sched_getcpu(), &others);
  if (CPU_COUNT(&others) == 0) {
    is_off_ = true;
    DropAll();
    return;
  }
  try {
    thread_ = std::thread([this, others] {
      sched_setaffinity(0, sizeof others, &others);
      Work();
    });
  } catch (const std::system_error&) {
    // There are too many threads.
    is_off_ = true;
    DropAll();
  }
}

void Foresight::Work() {
  Lock lock(mutex_);
  while (!quit_) {
    const Place place = busy_ || wanted_ || resting_ || error_ ? Place{} : NextPlanned();
    if (place.group == nullptr) {
      waits_ = true;
      work_.wait(lock);
      waits_ = false;
      continue;
    }
    try {
      AskAhead(lock, place);
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      place.group->slots[place.slot].state = Slot::kTaken;
      error_ = std::current_exception();
    }
    busy_ = false;
    finished_.fetch_add(1, std::memory_order_relaxed);
    changed_.notify_one();
  }
}

bool Foresight::IsOff() const { return is_off_ || Clock::now() < gives_way_until_; }

Foresight::Place Foresight::NextPlanned() {
  if (IsOff()) return {};
  for (const std::shared_ptr<Group>& group : groups_) {
    for (size_t i = 0; i < group->slots.size(); ++i) {
      const Slot& slot = group->slots[i];
      if (slot.state == Slot::kPlanned && slot.planned.links.empty()) return {group, i};
    }
  }
  return {};
}

void Foresight::AskAhead(Lock& lock, const Place& place) {
  Slot& slot = place.group->slots[place.slot];
  slot.state = Slot::kRunning;
  busy_ = true;
  std::vector<GuestCall> queued = std::exchange(queued_, {});
  lock.unlock();

  const std::vector<Question::Call>& planned = slot.planned.question.calls;
  GuestCall list[kMostCalls];
  Answer given[kMostCalls];
  // What cannot be moved back is not read: the read depends on the lseek by an argument that neither looks at.
  constexpr uint8_t kUnused = 5;
  const std::optional<uint64_t> read = ReadFile(slot);
  const size_t first = read ? 1 : 0;
  if (read) list[0] = {SYS_lseek, {*read, 0, SEEK_CUR}};
  GuestCall* const calls = list + first;
  Answer* const answers = given + first;
  uint64_t taken = window_.size;
  for (size_t i = 0; i < planned.size(); ++i) {
    const CallShape& shape = *planned[i].shape;
    calls[i] = {shape.number, {}, planned[i].result_argument, planned[i].result_of};
    std::copy(std::begin(planned[i].arguments), std::end(planned[i].arguments), calls[i].arguments);
    if (shape.text != CallShape::kNone) {
      std::memcpy(outer_.host + taken, planned[i].text.c_str(), planned[i].text.size() + 1);
      calls[i].arguments[shape.text] = outer_.guest + taken;
      taken += (planned[i].text.size() + 16) & ~uint64_t{15};
    }
    if (shape.out != CallShape::kNone) {
      calls[i].arguments[shape.out] = outer_.guest + taken;
      taken += (shape.Room(calls[i].arguments) + 15) & ~uint64_t{15};
    }
  }
  if (read) calls[0].result_argument = kUnused;
  const Clock::time_point begin = Clock::now();
  const std::chrono::nanoseconds worked = ThreadTime();
  const size_t all = RunAfter(std::move(queued), list, first + planned.size(), given);
  const bool was_held_up = Clock::now() - begin - (ThreadTime() - worked) > kHeldUp;
  const bool asked = all > first && (!read || given[0].value >= 0);
  const size_t done = asked ? all - first : 0;
  slot.answers.assign(answers, answers + done);
  slot.filled.assign(done, {});
  for (size_t i = 0; i < done; ++i) {
    const CallShape& shape = *planned[i].shape;
    const uint64_t filled = answers[i].failed ? 0 : shape.Filled(calls[i].arguments, answers[i].value);
    if (filled == 0) continue;
    const uint8_t* from = outer_.host + (calls[i].arguments[shape.out] - outer_.guest);
    slot.filled[i].assign(from, from + filled);
  }
  const bool failed = all > 0 && given[all - 1].failed;
  if (failed) slot.failure = kernel_->failure();

  lock.lock();
  slot.state = asked ? Slot::kDone : Slot::kTaken;
  ResolveLinks(*place.group, place.slot);
  // What failed may have left something of the kernel's held: no further tries.
  if (failed) is_off_ = true;
  // Where others want this processor the tool is better off without having to wait for it, for as long as they do.
  if (was_held_up && ++held_up_ == kMostHeldUp) {
    held_up_ = 0;
    gives_way_until_ = Clock::now() + gives_way_;
    gives_way_ *= 2;
  }
  if (asked && place.group->dropped) {
    Undo(slot);
  } else if (asked && place.group->is_opening) {
    NoteEarly(slot);
  }
}

void Foresight::NoteEarly(const Slot& slot) {
  std::vector<EntryPattern::Reply> replies(slot.planned.question.calls.size());
  for (size_t i = 0; i < slot.answers.size(); ++i) {
    const Answer& answer = slot.answers[i];
    if (answer.failed || answer.blocked) continue;
    replies[i] = {answer.value, slot.filled[i].empty() ? nullptr : slot.filled[i].data()};
  }
  pattern_.NoteEarly(slot.planned.question, replies);
  DropOutdated();
  Extend();
}

}  // namespace penumbra
