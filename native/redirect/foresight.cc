#include "redirect/foresight.h"

#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <utility>

#include "redirect/guest_files.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kAhead = 256 << 10;  // of the kernel's window, for what is asked ahead
constexpr size_t kManyQueued = 8;
constexpr std::chrono::microseconds kSpin(300);
constexpr int kTries = 200;

/// Whether a file was not opened, or has a number that no tool's may have.
bool IsOutOfFiles(uint32_t number, const GuestKernel::Answer* answers, size_t count) {
  const bool opens = number == SYS_openat || number == SYS_socket;
  if (!opens || count == 0 || answers[0].failed) return false;
  return answers[0].value == -EMFILE || answers[0].value >= GuestFiles::kEnd;
}

}  // namespace

Foresight::Foresight(GuestKernel* kernel, EntryPattern::IsReadAhead is_read_ahead, std::shared_ptr<const PastRun> past,
                     double worthwhile_ns)
    : kernel_(kernel),
      worthwhile_ns_(worthwhile_ns),
      outer_(kernel->window()),
      window_(outer_),
      memory_(nullptr, &std::free),
      usual_ns_(past == nullptr ? 0 : past->usual_ns),
      pattern_(std::move(is_read_ahead), std::move(past)) {
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

// What the thread is at takes some ten microseconds, and to be woken up as long again: nobody else wants the processor
// meanwhile, since the tool waits for this.
void Foresight::Await(Lock& lock, const std::function<bool()>& condition) {
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

void Foresight::Begin() {
  Lock lock(mutex_);
  std::vector<PlannedQuestion> opening = pattern_.PlanOpening();
  if (opening.empty() || IsOff() || usual_ns_ < worthwhile_ns_) return;
  const auto group = std::make_shared<Group>();
  group->is_opening = true;
  for (PlannedQuestion& planned : opening) {
    group->slots.emplace_back();
    group->slots.back().planned = std::move(planned);
  }
  groups_.push_back(group);
  Start();
}

PastRun Foresight::Remember() {
  const Lock lock(mutex_);
  PastRun run = pattern_.Remember();
  run.usual_ns = usual_ns_;
  return run;
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
  EntryPattern::Foreseen foreseen = EntryPattern::Foreseen::kNo;
  if (place.group != nullptr) {
    foreseen = place.group->is_opening ? EntryPattern::Foreseen::kByOpening : EntryPattern::Foreseen::kByWalk;
  }
  NoteAnswers(rest, left, done, answers + closed, question, foreseen);
  Extend();
  Wake();
  return closed + done;
}

void Foresight::Wake() {
  if (waits_ && !resting_ && NextPlanned().group != nullptr) work_.notify_one();
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
                            const Question& question, EntryPattern::Foreseen foreseen) {
  std::vector<EntryPattern::Reply> replies(count);
  for (size_t i = 0; i < done; ++i) {
    if (answers[i].failed || answers[i].blocked) continue;
    const CallShape& shape = *question.calls[i].shape;
    const bool fills = shape.Filled(calls[i].arguments, answers[i].value) > 0;
    replies[i] = {answers[i].value, fills ? InWindow(calls[i].arguments[shape.out]) : nullptr};
  }
  pattern_.Note(question, replies, foreseen);
  DropOutdated();
}

}  // namespace penumbra
