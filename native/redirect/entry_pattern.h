// What a tool is going to ask about the next entry of a directory: the same as about the last one.
#ifndef PENUMBRA_NATIVE_REDIRECT_ENTRY_PATTERN_H_
#define PENUMBRA_NATIVE_REDIRECT_ENTRY_PATTERN_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "redirect/opening.h"
#include "redirect/past_run.h"
#include "redirect/question.h"

namespace penumbra {

/// Watches which directories a tool lists and what it asks about their entries. Only entries below /proc and /sys are
/// planned for, and of these none that leads elsewhere or is consumed: what is left is never on a disk, and to open
/// it does nothing.
class EntryPattern {
 public:
  /// Whether an open with these flags is asked together with a read of what it opens.
  using IsReadAhead = std::function<bool(const char* path, uint64_t flags)>;

  /// `past` may be null.
  EntryPattern(IsReadAhead is_read_ahead, std::shared_ptr<const PastRun> past)
      : is_read_ahead_(std::move(is_read_ahead)), past_(std::move(past)) {}

  /// Why an answer was there when it was asked for.
  enum class Foreseen {
    kNo,
    kByWalk,     ///< from what Plan gave
    kByOpening,  ///< from what PlanOpening gave
  };

  struct Reply {
    int64_t value = -1;
    const uint8_t* bytes = nullptr;  ///< what the call filled, while it is being noted
  };

  /// To be told of every question, in the order of the tool. From one that had been foreseen nothing is to be learnt
  /// about what comes next.
  void Note(const Question& question, const std::vector<Reply>& replies, Foreseen foreseen);

  /// To be told of answers to what PlanOpening gave, before the tool asks: a directory that will be gone through can be
  /// planned for now.
  void NoteEarly(const Question& question, const std::vector<Reply>& replies);

  /// A file is no more; its number may be another's soon.
  void NoteClosed(uint64_t file);

  /// What will be asked of the next entry, or what is left to be asked of the one that was begun, as far as it can be
  /// asked ahead: the list may be empty. None: nothing is known.
  std::optional<std::vector<PlannedQuestion>> Plan();

  /// What will be asked at first.
  std::vector<PlannedQuestion> PlanOpening() const;

  /// Changes when what Plan gave before is not going to be asked.
  uint64_t generation() const { return generation_; }

  /// The tool did something else than to ask: what belongs together is cut there.
  void Interrupt();

  /// For the next run of the same command line. Nothing of a program that looks at what processes have open: among the
  /// borrowed task's files is what was asked ahead.
  PastRun Remember() const;

 private:
  struct Noted {
    Question question;
    std::vector<int64_t> values;
    bool can_be_planned;
  };
  struct Entry {
    std::string name;
    uint8_t type;  ///< d_type
  };
  /// Entries of one type: programs do one thing with files and another with directories.
  struct Type {
    uint32_t last = 0;                      ///< entry that was asked about
    std::optional<uint32_t> first;          ///< entry that was asked about before all others
    size_t asked_before = 0;                ///< questions of the opening
    uint32_t foreseen = 0, unforeseen = 0;  ///< entries
    std::shared_ptr<const WalkSteps> steps;
  };
  struct Listing {
    static constexpr uint64_t kClosed = ~uint64_t{0};
    uint64_t file = kClosed;
    std::string path;  ///< absolute, with a slash at its end; empty when it is not known
    std::vector<Entry> entries;
    std::unordered_map<std::string, uint32_t> places;
    std::map<uint8_t, Type> types;
    std::optional<uint32_t> current;  ///< the entry that is asked about
    uint64_t begin = 0;               ///< where in the history that began
    std::optional<uint8_t> walked;    ///< type of the entries that were planned for first
  };
  struct Match {
    uint32_t entry;
    WalkStep::NamePlace place;
  };

  void Forget(uint64_t file);
  void NoteEntries(const Question& question, const std::vector<Reply>& replies, bool may_plan);
  void NoteEntry(const std::shared_ptr<Listing>& listing, uint32_t entry, const Question& question,
                 const std::vector<Reply>& replies, bool may_plan);
  void NoteOpened(const Question& question, const std::vector<Reply>& replies);
  void NoteListed(const Question& question, const std::vector<Reply>& replies);
  std::optional<Match> FindEntry(const Listing& listing, const Question::Call& call, size_t index) const;
  std::shared_ptr<const WalkSteps> MakeSteps(const Listing& listing) const;
  static bool Uses(const WalkSteps& steps, uint64_t file);
  void PlanFor(const std::shared_ptr<Listing>& listing, uint8_t type, uint32_t entry);
  void PlanAsBefore(const std::shared_ptr<Listing>& listing);
  void RememberWalk(const Listing& listing);
  bool CanBePlanned(const Question& question) const;
  std::string PathOf(const Question::Call& call) const;
  std::optional<uint32_t> NextOfType(uint32_t entry) const;
  bool IsAskedSo(const Question& question) const;

  IsReadAhead is_read_ahead_;
  std::shared_ptr<const PastRun> past_;
  Opening opening_;
  bool looks_at_files_ = false;
  std::optional<Walk> walk_;  ///< the longest so far
  uint32_t walk_entries_ = 0;
  size_t asked_before_walk_ = SIZE_MAX;
  std::list<std::shared_ptr<Listing>> listings_;  ///< the oldest first
  std::map<uint64_t, std::string> paths_;         ///< of the files opened last
  std::deque<Noted> history_;
  uint64_t history_begin_ = 0;  ///< how many came before those that are kept

  std::shared_ptr<Listing> planned_for_;
  std::shared_ptr<const WalkSteps> steps_;
  uint8_t planned_type_ = 0;
  uint32_t cursor_ = 0;                        ///< the entry that was planned last
  bool at_cursor_ = false;                     ///< or that is still to be planned
  std::optional<std::vector<int64_t>> begun_;  ///< what the first question about it gave, when it was asked
  uint64_t generation_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_ENTRY_PATTERN_H_
