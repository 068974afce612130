// What an earlier run of the same command line asked.
#ifndef PENUMBRA_NATIVE_REDIRECT_PAST_RUN_H_
#define PENUMBRA_NATIVE_REDIRECT_PAST_RUN_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
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

/// Which question of a list opened a file.
class Openers {
 public:
  /// `values` are what the calls returned, negative without an answer.
  void Note(size_t index, const Question& question, const std::vector<int64_t>& values);
  void NoteClosed(uint64_t file) { openers_.erase(file); }
  /// Of the file that a call is about; null when it is not known.
  std::optional<FileLink> Find(size_t call_index, const Question::Call& call) const;

 private:
  std::map<uint64_t, std::pair<size_t, size_t>> openers_;  ///< question and call, by the file's number
};

/// What is asked of each entry of a directory.
struct WalkStep {
  /// A place in a text where the entry's name is.
  struct NamePlace {
    size_t call, at, length;
  };
  PlannedQuestion planned;
  std::vector<NamePlace> names;
  bool can_be_planned;
};
using WalkSteps = std::vector<WalkStep>;

/// How a program went through the entries of one type of a directory.
struct Walk {
  std::string folder;  ///< its path, with a slash at the end
  uint64_t file;       ///< its number then; of no file when it had been closed
  uint8_t type;        ///< d_type
  std::string first;   ///< name of the entry that it began with
  std::shared_ptr<const WalkSteps> steps;
};

struct PastRun {
  std::vector<PlannedQuestion> opening;  ///< what was asked before the walk
  std::optional<Walk> walk;              ///< the longest that was foreseen
  double usual_ns = 0;                   ///< what an answer took
};

/// The runs of the last few command lines.
class PastRuns {
 public:
  /// Null when there was none.
  std::shared_ptr<const PastRun> Find(const std::string& command_line);
  void Keep(const std::string& command_line, PastRun run);

 private:
  std::list<std::pair<std::string, std::shared_ptr<const PastRun>>> runs_;  ///< the latest first
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_PAST_RUN_H_
