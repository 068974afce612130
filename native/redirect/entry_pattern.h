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

#include "redirect/question.h"

namespace penumbra {

/// An argument that is what an earlier question of the same list opened.
struct FileLink {
  size_t call, argument;
  size_t from_question, from_call;
};

struct PlannedQuestion {
  Question question;
  std::vector<FileLink> links;
};

/// Watches which directories a tool lists and what it asks about their entries. Only entries below /proc and /sys are
/// planned for, and of these none that leads elsewhere or is consumed: what is left is never on a disk, and to open
/// it does nothing.
class EntryPattern {
 public:
  /// Whether an open with these flags is asked together with a read of what it opens.
  using IsReadAhead = std::function<bool(const char* path, uint64_t flags)>;

  explicit EntryPattern(IsReadAhead is_read_ahead) : is_read_ahead_(std::move(is_read_ahead)) {}

  struct Reply {
    int64_t value = -1;
    const uint8_t* bytes = nullptr;  ///< what the call filled, while it is being noted
  };

  /// To be told of every question, in the order of the tool. `was_planned`: it had been foreseen, so nothing is to be
  /// learnt from it about what comes next.
  void Note(const Question& question, const std::vector<Reply>& replies, bool was_planned);

  /// A file is no more; its number may be another's soon.
  void NoteClosed(uint64_t file);

  /// What will be asked of the next entry, or what is left to be asked of the one that was begun, as far as it can be
  /// asked ahead: the list may be empty. None: nothing is known.
  std::optional<std::vector<PlannedQuestion>> Plan();

  /// Changes when what was planned before is not going to be asked.
  uint64_t generation() const { return generation_; }

  /// The tool did something else than to ask: what belongs together is cut there.
  void Interrupt();

 private:
  struct Noted {
    Question question;
    std::vector<int64_t> values;
    bool can_be_planned;
  };
  /// A place in a text where the entry's name is.
  struct NamePlace {
    size_t call, at, length;
  };
  struct Step {
    PlannedQuestion planned;
    std::vector<NamePlace> names;
    bool can_be_planned;
  };
  using Template = std::vector<Step>;
  struct Entry {
    std::string name;
    uint8_t type;  ///< d_type
  };
  /// Entries of one type: programs do one thing with files and another with directories.
  struct Type {
    uint32_t last = 0;  ///< entry that was asked about
    std::shared_ptr<const Template> steps;
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
  };
  struct Match {
    uint32_t entry;
    NamePlace place;
  };

  void Forget(uint64_t file);
  void NoteEntry(const std::shared_ptr<Listing>& listing, uint32_t entry, const Question& question,
                 const std::vector<Reply>& replies, bool may_plan);
  void NoteOpened(const Question& question, const std::vector<Reply>& replies);
  void NoteListed(const Question& question, const std::vector<Reply>& replies);
  std::optional<Match> FindEntry(const Listing& listing, const Question::Call& call, size_t index) const;
  std::shared_ptr<const Template> MakeTemplate(const Listing& listing) const;
  static bool Uses(const Template& steps, uint64_t file);
  bool CanBePlanned(const Question& question) const;
  std::string PathOf(const Question::Call& call) const;
  std::optional<uint32_t> NextOfType(uint32_t entry) const;
  bool IsAskedSo(const Question& question) const;

  IsReadAhead is_read_ahead_;
  std::list<std::shared_ptr<Listing>> listings_;  ///< the oldest first
  std::map<uint64_t, std::string> paths_;         ///< of the files opened last
  std::deque<Noted> history_;
  uint64_t history_begin_ = 0;  ///< how many came before those that are kept

  std::shared_ptr<Listing> planned_for_;
  std::shared_ptr<const Template> steps_;
  uint32_t cursor_ = 0;  ///< the entry that was planned last
  std::optional<std::vector<int64_t>>
      begun_;  ///< what the first question about it gave, the rest is still to be planned
  uint64_t generation_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_ENTRY_PATTERN_H_
