// Answers ready before they are asked for.
#ifndef PENUMBRA_NATIVE_REDIRECT_FORESIGHT_H_
#define PENUMBRA_NATIVE_REDIRECT_FORESIGHT_H_

#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "redirect/entry_pattern.h"
#include "redirect/guest_kernel.h"
#include "redirect/question.h"

namespace penumbra {

/// A guest's kernel that is asked, by a thread of its own, what the tool is going to ask next, while the tool and its
/// supervisor are busy with what they have. The guest stands still: what is asked early has the same answer. Whoever
/// asks cannot tell but by the time, by the numbers of files, and by the list of the borrowed task's own files.
///
/// The window is memory of this class, so that the guest's kernel, which may now run at any time, cannot change what
/// has been checked.
class Foresight final : public GuestKernel {
 public:
  /// To hand a question to another CPU costs some microseconds: where the guest answers as fast, as it does on a
  /// processor that virtualises, nothing is gained.
  static constexpr double kWorthwhileNs = 10'000;

  /// `kernel` must outlive this; nobody else may use it meanwhile. Nothing is asked ahead where an answer takes less
  /// than `worthwhile_ns`. `past`: the run that this one is going to be like, or null.
  Foresight(GuestKernel* kernel, EntryPattern::IsReadAhead is_read_ahead, std::shared_ptr<const PastRun> past = nullptr,
            double worthwhile_ns = kWorthwhileNs);
  /// Waits for the question that is being asked.
  ~Foresight() override;
  Foresight(const Foresight&) = delete;
  Foresight& operator=(const Foresight&) = delete;

  GuestWindow window() const override { return window_; }
  void Begin() override;
  size_t Run(const GuestCall* calls, size_t count, uint64_t used, Answer* answers) override;
  const std::string& failure() const override { return failure_; }
  uint64_t foreseen() const override { return foreseen_; }

  /// Returns when the guest's kernel is left alone; it is until the next Run.
  void Rest();

  /// For the next run of the same command line.
  PastRun Remember();

 private:
  struct Slot {
    enum State {
      kPlanned,  ///< nobody has asked it
      kRunning,  ///< the thread is asking it
      kDone,     ///< answered, and not yet asked by the user
      kTaken,    ///< the user has the answer, or will not get this one
    };
    PlannedQuestion planned;
    State state = kPlanned;
    std::vector<Answer> answers;
    std::vector<std::vector<uint8_t>> filled;  ///< by each call
    std::string failure;
  };
  /// What is asked of one entry, or before there are any.
  struct Group {
    std::deque<Slot> slots;
    bool is_opening = false;
    bool dropped = false;
  };
  struct Place {
    std::shared_ptr<Group> group;
    size_t slot = 0;
  };
  using Lock = std::unique_lock<std::mutex>;

  // foresight.cc: the user's side, and how the kernel is entered. Lock is held, but while the kernel is asked.
  size_t RunNow(Lock& lock, const GuestCall* calls, size_t count, const Question* question, uint64_t used,
                Answer* answers);
  size_t RunOnce(Lock& lock, const GuestCall* calls, size_t count, const Question* question, uint64_t used,
                 Answer* answers);
  /// Makes those that were queued and then these; needs no lock.
  size_t RunAfter(std::vector<GuestCall> queued, const GuestCall* calls, size_t count, Answer* answers);
  void CopyIn(const GuestCall* calls, const Question* question, uint64_t used);
  void CopyOut(const GuestCall* calls, size_t done, const Question* question, uint64_t used, const Answer* answers);
  void TakeSlot(Slot& slot, const GuestCall* calls, Answer* answers);
  void NoteAnswers(const GuestCall* calls, size_t count, size_t done, const Answer* answers, const Question& question,
                   EntryPattern::Foreseen foreseen);
  uint8_t* InWindow(uint64_t guest) const { return window_.host + (guest - window_.guest); }
  Lock Enter();
  void Await(Lock& lock, const std::function<bool()>& condition);
  void Wake();

  // foreseen.cc: what was planned, and what became of it.
  void Extend();
  Place Find(const Question& question);
  static void ResolveLinks(Group& group, size_t index);
  static bool HasReadBefore(const Group& group, size_t index);
  static std::optional<uint64_t> ReadFile(const Slot& slot);
  static bool Uses(const Slot& slot, uint64_t file);
  static std::vector<uint64_t> Opened(const Slot& slot);
  void NoteClosed(Lock& lock, uint64_t file);
  /// Of this file, or of all.
  void TakeBackReads(Lock& lock, std::optional<uint64_t> file);
  void Undo(const Slot& slot);
  void DropGroup(Group& group);
  void DropAll();
  /// What is not going to be asked, now that the pattern is another one.
  void DropOutdated();
  void Queue(uint32_t number, uint64_t a, uint64_t b = 0, uint64_t c = 0);

  // asking_ahead.cc: the thread.
  void Start();
  void Work();
  /// Whether nothing is asked ahead now.
  bool IsOff() const;
  Place NextPlanned();
  void AskAhead(Lock& lock, const Place& place);
  void NoteEarly(const Slot& slot);

  GuestKernel* kernel_;
  double worthwhile_ns_;
  GuestWindow outer_;   ///< the kernel's own
  GuestWindow window_;  ///< its beginning, as users see it
  std::unique_ptr<uint8_t, decltype(&std::free)> memory_;
  cpu_set_t allowed_;
  std::string failure_;
  uint64_t foreseen_ = 0;
  double usual_ns_ = 0;  ///< what an entry of the shadow takes

  std::mutex mutex_;
  std::condition_variable changed_;  ///< for the user: the thread has finished a question
  std::condition_variable work_;     ///< for the thread
  std::atomic<uint32_t> finished_ = 0;
  EntryPattern pattern_;
  uint64_t generation_ = 0;
  std::deque<std::shared_ptr<Group>> groups_;
  std::vector<GuestCall> queued_;  ///< to be made with the next question
  bool busy_ = false;              ///< the kernel is being asked
  bool wanted_ = false;            ///< by the user
  bool resting_ = false;
  bool is_off_ = false;   ///< nothing is planned any more
  uint32_t held_up_ = 0;  ///< times that the thread wanted to run and did not
  std::chrono::steady_clock::time_point gives_way_until_{};
  std::chrono::milliseconds gives_way_{20};  ///< for how long the next time
  bool quit_ = false;
  bool waits_ = false;   ///< the thread, for work
  uint64_t wasted_ = 0;  ///< questions asked ahead that nobody asked then
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_FORESIGHT_H_
