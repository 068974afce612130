#include "redirect/foresight.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>

#include "redirect/guest_files.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kAhead = 256 << 10;  // of the kernel's window, for what is asked ahead
constexpr size_t kMostGroups = 12, kFewGroups = 6;
constexpr size_t kMostSlots = 96;  // each may hold a file of the guest open
constexpr size_t kManyQueued = 8;
constexpr std::chrono::microseconds kSpin(40);
constexpr int kTries = 200;
constexpr uint64_t kTrial = 64;

constexpr std::chrono::milliseconds kHeldUp(1);
constexpr uint32_t kMostHeldUp = 2;

/// Of the processor.
std::chrono::nanoseconds ThreadTime() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

/// Whether a file was not opened, or has a number that no tool's may have.
bool IsOutOfFiles(uint32_t number, const GuestKernel::Answer* answers, size_t count) {
  if (number != SYS_openat || count == 0 || answers[0].failed) return false;
  return answers[0].value == -EMFILE || answers[0].value >= GuestFiles::kEnd;
}

}  // namespace

Foresight::Foresight(GuestKernel* kernel, EntryPattern::IsReadAhead is_read_ahead, double worthwhile_ns)
    : kernel_(kernel),
      worthwhile_ns_(worthwhile_ns),
      outer_(kernel->window()),
      window_(outer_),
      memory_(nullptr, &std::free),
      pattern_(std::move(is_read_ahead)) {
  window_.size = outer_.size > 2 * kAhead ? outer_.size - kAhead : outer_.size;
  memory_.reset(static_cast<uint8_t*>(std::calloc(window_.size, 1)));
  if (memory_ == nullptr) throw std::bad_alloc();
  window_.host = memory_.get();
  // Before the user binds itself, and with it all threads that it starts, to one CPU.
  if (sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) CPU_ZERO(&allowed_);
  is_off_ = window_.size == outer_.size;
}

Foresight::~Foresight() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Foresight::Rest() {
  Lock lock(mutex_);
  resting_ = true;
  Await(lock, [this] { return !busy_; });
}

// What the thread is at takes some microseconds, and to be woken up as long again.
template <typename Condition>
void Foresight::Await(Lock& lock, Condition condition) {
  if (condition()) return;
  const uint32_t before = finished_.load(std::memory_order_relaxed);
  lock.unlock();
  const Clock::time_point end = Clock::now() + kSpin;
  while (finished_.load(std::memory_order_relaxed) == before && Clock::now() < end) __builtin_ia32_pause();
  lock.lock();
  changed_.wait(lock, condition);
}

// The thread holds the lock for a moment at a time, less than it takes to wait for it.
Foresight::Lock Foresight::Enter() {
  Lock lock(mutex_, std::defer_lock);
  for (int i = 0; i < kTries; ++i) {
    if (lock.try_lock()) return lock;
    __builtin_ia32_pause();
  }
  lock.lock();
  return lock;
}

size_t Foresight::Run(const GuestCall* calls, size_t count, uint64_t used, Answer* answers) {
  size_t closed = 0;
  // With something behind it an lseek is one that nobody waits for, as a close always is.
  for (; closed < count &&
         (calls[closed].number == SYS_close || (calls[closed].number == SYS_lseek && closed + 1 < count));
       ++closed) {
    answers[closed] = {};
  }
  const size_t left = count - closed;
  GuestCall rest[kMostCalls];
  for (size_t i = 0; i < left; ++i) {
    rest[i] = calls[closed + i];
    rest[i].result_of =
        rest[i].result_argument == GuestCall::kNone ? 0 : static_cast<uint8_t>(rest[i].result_of - closed);
  }
  Question question;
  const QuestionKind kind = Describe(rest, left, window_, &question);

  Lock lock = Enter();
  resting_ = false;
  if (error_) std::rethrow_exception(error_);
  for (size_t i = 0; i < closed; ++i) {
    const uint64_t* given = calls[i].arguments;
    if (calls[i].number == SYS_close) {
      NoteClosed(lock, given[0]);
    } else {
      TakeBackReads(lock, given[0]);
      Queue(SYS_lseek, given[0], given[1], given[2]);
    }
  }
  if (left == 0) {
    if (queued_.size() >= kManyQueued) RunNow(lock, nullptr, 0, nullptr, 0, nullptr);
    return count;
  }
  if (kind != QuestionKind::kKnown) TakeBackReads(lock, std::nullopt);
  if (kind == QuestionKind::kOther) {
    for (size_t i = 0; i < left; ++i) {
      if (rest[i].number == SYS_close) pattern_.NoteClosed(rest[i].arguments[0]);
    }
    pattern_.Interrupt();
    DropAll();
  }
  if (kind != QuestionKind::kKnown) {
    const size_t done = RunNow(lock, rest, left, nullptr, used, answers + closed);
    Wake();
    return closed + done;
  }
  const Place place = Find(question);
  size_t done;
  if (place.group == nullptr) {
    for (const Question::Call& call : question.calls) {
      if (DependsOnFile(call)) TakeBackReads(lock, call.arguments[call.shape->file]);
    }
    done = RunNow(lock, rest, left, &question, used, answers + closed);
  } else {
    Slot& slot = place.group->slots[place.slot];
    Await(lock, [&] { return slot.state != Slot::kRunning; });
    if (slot.state == Slot::kDone && !IsOutOfFiles(rest[0].number, slot.answers.data(), slot.answers.size())) {
      TakeSlot(slot, rest, answers + closed);
      done = slot.answers.size();
      ++foreseen_;
    } else {
      if (slot.state == Slot::kDone) Undo(slot);
      slot.state = Slot::kTaken;
      done = RunNow(lock, rest, left, &question, used, answers + closed);
      slot.answers.assign(answers + closed, answers + closed + done);
      ResolveLinks(*place.group, place.slot);
    }
  }
  NoteAnswers(rest, left, done, answers + closed, question, place.group != nullptr);
  Extend();
  Wake();
  return closed + done;
}

void Foresight::Wake() {
  if (waits_ && !resting_ && NextPlanned().group != nullptr) work_.notify_one();
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

void Foresight::Queue(uint32_t number, uint64_t a, uint64_t b, uint64_t c) { queued_.push_back({number, {a, b, c}}); }

bool Foresight::Uses(const Slot& slot, uint64_t file) {
  const std::vector<Question::Call>& calls = slot.planned.question.calls;
  return slot.planned.links.empty() && std::any_of(calls.begin(), calls.end(), [&](const Question::Call& call) {
           return DependsOnFile(call) && call.arguments[call.shape->file] == file;
         });
}

// What is open only because it was foreseen must not be missing to the tool.
size_t Foresight::RunNow(Lock& lock, const GuestCall* calls, size_t count, const Question* question, uint64_t used,
                         Answer* answers) {
  size_t done = RunOnce(lock, calls, count, question, used, answers);
  if (done > 0 && IsOutOfFiles(calls[0].number, answers, done) && !groups_.empty()) {
    if (answers[0].value >= 0) Queue(SYS_close, static_cast<uint64_t>(answers[0].value));
    DropAll();
    done = RunOnce(lock, calls, count, question, used, answers);
  }
  return done;
}

size_t Foresight::RunOnce(Lock& lock, const GuestCall* calls, size_t count, const Question* question, uint64_t used,
                          Answer* answers) {
  wanted_ = true;
  Await(lock, [this] { return !busy_; });
  wanted_ = false;
  busy_ = true;
  std::vector<GuestCall> queued = std::exchange(queued_, {});
  lock.unlock();
  size_t done;
  try {
    CopyIn(calls, question, used);
    const Clock::time_point begin = Clock::now();
    done = RunAfter(std::move(queued), calls, count, answers);
    usual_ns_ += (static_cast<double>((Clock::now() - begin).count()) - usual_ns_) / 8;
    CopyOut(calls, done, question, used, answers);
  } catch (...) {
    lock.lock();
    busy_ = false;
    throw;
  }
  lock.lock();
  busy_ = false;
  if (done > 0 && answers[done - 1].failed) failure_ = kernel_->failure();
  return done;
}

void Foresight::CopyIn(const GuestCall* calls, const Question* question, uint64_t used) {
  if (question == nullptr) {
    std::memcpy(outer_.host, window_.host, used);
    return;
  }
  for (size_t i = 0; i < question->calls.size(); ++i) {
    const CallShape& shape = *question->calls[i].shape;
    if (shape.text == CallShape::kNone) continue;
    const uint64_t at = calls[i].arguments[shape.text] - window_.guest;
    const std::string& text = question->calls[i].text;
    std::memcpy(outer_.host + at, text.c_str(), text.size() + 1);
  }
}

void Foresight::CopyOut(const GuestCall* calls, size_t done, const Question* question, uint64_t used,
                        const Answer* answers) {
  if (question == nullptr) {
    std::memcpy(window_.host, outer_.host, used);
    return;
  }
  for (size_t i = 0; i < done; ++i) {
    const CallShape& shape = *question->calls[i].shape;
    const uint64_t filled = answers[i].failed ? 0 : shape.Filled(calls[i].arguments, answers[i].value);
    if (filled == 0) continue;
    const uint64_t at = calls[i].arguments[shape.out] - window_.guest;
    std::memcpy(window_.host + at, outer_.host + at, filled);
  }
}

// Nobody waits for what those that were queued return.
size_t Foresight::RunAfter(std::vector<GuestCall> queued, const GuestCall* calls, size_t count, Answer* answers) {
  GuestCall list[kMostCalls];
  Answer given[kMostCalls];
  while (!queued.empty()) {
    const size_t before = std::min(queued.size(), kMostCalls);
    const size_t after = before == queued.size() && before + count <= kMostCalls ? count : 0;
    std::copy(queued.begin(), queued.begin() + static_cast<long>(before), list);
    for (size_t i = 0; i < after; ++i) {
      list[before + i] = calls[i];
      list[before + i].result_of = static_cast<uint8_t>(calls[i].result_of + before);
    }
    const size_t done = kernel_->Run(list, before + after, outer_.size, given);
    if (after > 0 && done > before) {
      std::copy(given + before, given + done, answers);
      return done - before;
    }
    // One that failed ends a list.
    queued.erase(queued.begin(), queued.begin() + static_cast<long>(std::clamp(done, size_t{1}, before)));
  }
  return count == 0 ? 0 : kernel_->Run(calls, count, outer_.size, answers);
}

void Foresight::TakeSlot(Slot& slot, const GuestCall* calls, Answer* answers) {
  slot.state = Slot::kTaken;
  std::copy(slot.answers.begin(), slot.answers.end(), answers);
  for (size_t i = 0; i < slot.answers.size(); ++i) {
    if (slot.filled[i].empty()) continue;
    const uint8_t out = slot.planned.question.calls[i].shape->out;
    std::memcpy(InWindow(calls[i].arguments[out]), slot.filled[i].data(), slot.filled[i].size());
  }
  if (!slot.answers.empty() && slot.answers.back().failed) failure_ = slot.failure;
}

void Foresight::NoteAnswers(const GuestCall* calls, size_t count, size_t done, const Answer* answers,
                            const Question& question, bool was_planned) {
  std::vector<EntryPattern::Reply> replies(count);
  for (size_t i = 0; i < done; ++i) {
    if (answers[i].failed || answers[i].blocked) continue;
    const CallShape& shape = *question.calls[i].shape;
    const bool fills = shape.Filled(calls[i].arguments, answers[i].value) > 0;
    replies[i] = {answers[i].value, fills ? InWindow(calls[i].arguments[shape.out]) : nullptr};
  }
  pattern_.Note(question, replies, was_planned);
  if (pattern_.generation() == generation_) return;
  generation_ = pattern_.generation();
  DropAll();
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

void Foresight::Extend() {
  if (wasted_ > kTrial && wasted_ > foreseen_) is_off_ = true;
  if (is_off_ || usual_ns_ < worthwhile_ns_ || groups_.size() > kFewGroups) return;
  size_t slots = 0;
  for (const std::shared_ptr<Group>& group : groups_) slots += group->slots.size();
  bool is_new = false;
  while (groups_.size() < kMostGroups && slots < kMostSlots) {
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

// Files are closed, and moved back to where the tool believes them to be.
void Foresight::Undo(const Slot& slot) {
  for (const uint64_t file : Opened(slot)) Queue(SYS_close, file);
  const std::optional<uint64_t> read = ReadFile(slot);
  if (!read || slot.answers.empty() || slot.answers.front().failed || slot.answers.front().value <= 0) return;
  Queue(SYS_lseek, *read, static_cast<uint64_t>(-slot.answers.front().value), SEEK_CUR);
}

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

Foresight::Place Foresight::NextPlanned() {
  if (is_off_) return {};
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
  // What failed may have left something of the kernel's held: no further tries. And where others want this processor,
  // the tool is better off without having to wait for it.
  held_up_ += was_held_up ? 1 : 0;
  if (failed || held_up_ == kMostHeldUp) is_off_ = true;
  if (asked && place.group->dropped) Undo(slot);
}

}  // namespace penumbra
