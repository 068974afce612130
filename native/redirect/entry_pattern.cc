#include "redirect/entry_pattern.h"

#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace penumbra {

namespace {

constexpr size_t kMostListings = 8;
constexpr size_t kMostEntries = 1 << 13;
constexpr size_t kMostName = 255;  // NAME_MAX
constexpr size_t kMostHistory = 64;
constexpr size_t kMostPaths = 64;
constexpr uint32_t kMostUnforeseen = 2;    // entries at which a walk can be recognised
constexpr uint64_t kMostRoom = 160 << 10;  // of a question; programs read environments by 128 KiB

constexpr std::string_view kFolders[] = {"/proc", "/sys"};
/// Entries of /proc/PID that lead somewhere else, and directories full of such.
constexpr std::string_view kLinks[] = {"root", "cwd", "exe"};
constexpr std::string_view kFoldersOfLinks[] = {"fd", "map_files"};
constexpr std::string_view kFoldersOfFiles[] = {"fd", "fdinfo"};
/// What is read there is gone.
constexpr std::string_view kConsumed[] = {"kmsg", "trace_pipe"};

template <size_t count>
bool IsOneOf(std::string_view name, const std::string_view (&names)[count]) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// Whether it is about the caller alone, no file.
bool OnlyAsksOfCaller(const Question& question) {
  return std::all_of(question.calls.begin(), question.calls.end(), [](const Question::Call& call) {
    return call.shape->file == CallShape::kNone && call.shape->text == CallShape::kNone && !call.shape->opens;
  });
}

/// Of a process's open files.
bool OpensFolderOfFiles(const Question::Call& call) {
  if (!call.shape->opens) return false;
  std::string_view path = call.text;
  while (path.ends_with('/')) path.remove_suffix(1);
  return IsOneOf(path.substr(path.rfind('/') + 1), kFoldersOfFiles);
}

/// Whether it is a file of /proc or /sys, or what an entry there stands for when that is not going to be opened.
bool StaysInside(std::string_view path, bool is_opened) {
  const bool is_below = std::any_of(std::begin(kFolders), std::end(kFolders), [&](std::string_view folder) {
    return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
  });
  if (!is_below) return false;
  std::string_view before;
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find('/', at), path.size());
    const std::string_view name = path.substr(at, end - at);
    const bool is_last = path.find_first_not_of('/', end) == std::string_view::npos;
    const bool leads_out = IsOneOf(name, kLinks) || (!name.empty() && IsOneOf(before, kFoldersOfLinks));
    if (name == ".." || (leads_out && (is_opened || !is_last))) return false;
    if (!name.empty()) before = name;
    at = end + 1;
  }
  return true;
}

}  // namespace

void EntryPattern::Interrupt() {
  history_begin_ += history_.size();
  history_.clear();
  planned_for_ = nullptr;
}

void EntryPattern::Note(const Question& question, const std::vector<Reply>& replies, Foreseen foreseen) {
  // The run before asked that before it went through any directory.
  if (foreseen != Foreseen::kByOpening) NoteEntries(question, replies, foreseen == Foreseen::kNo);
  Noted noted{question, {}, CanBePlanned(question)};
  for (const Reply& reply : replies) noted.values.push_back(reply.value);
  opening_.Note(question, noted.values, noted.can_be_planned || OnlyAsksOfCaller(question));
  history_.push_back(std::move(noted));
  if (history_.size() > kMostHistory) {
    history_.pop_front();
    ++history_begin_;
  }
  NoteOpened(question, replies);
  NoteListed(question, replies);
  looks_at_files_ = looks_at_files_ || std::any_of(question.calls.begin(), question.calls.end(), OpensFolderOfFiles);
}

void EntryPattern::NoteEntries(const Question& question, const std::vector<Reply>& replies, bool may_plan) {
  // The outermost directory whose next entry this is: what is asked of its entries contains the rest.
  for (const std::shared_ptr<Listing>& listing : listings_) {
    for (size_t i = 0; i < question.calls.size(); ++i) {
      const std::optional<Match> match = FindEntry(*listing, question.calls[i], i);
      if (!match) continue;
      const uint64_t before = generation_;
      if (listing->current != match->entry) NoteEntry(listing, match->entry, question, replies, may_plan);
      may_plan = may_plan && generation_ == before;
      break;
    }
  }
}

void EntryPattern::NoteEntry(const std::shared_ptr<Listing>& listing, uint32_t entry, const Question& question,
                             const std::vector<Reply>& replies, bool may_plan) {
  // The tool has gone on.
  if (planned_for_ == listing && begun_.has_value()) {
    begun_.reset();
    at_cursor_ = false;
  }
  if (listing->current) {
    Type& type = listing->types[listing->entries[*listing->current].type];
    if (const std::shared_ptr<const WalkSteps> steps = MakeSteps(*listing)) {
      type.steps = steps;
      const uint8_t kind = listing->entries[*listing->current].type;
      if (planned_for_ == listing && planned_type_ == kind) steps_ = steps;
      if (listing->walked == kind && !may_plan) RememberWalk(*listing);
    }
  }
  const uint8_t kind = listing->entries[entry].type;
  Type& type = listing->types[kind];
  const uint32_t last = type.last;
  type.last = entry;
  if (!type.first) {
    type.first = entry;
    type.asked_before = opening_.size();
  }
  listing->current = entry;
  ++(may_plan ? type.unforeseen : type.foreseen);
  listing->begin = history_begin_ + history_.size();
  if (!may_plan || type.steps == nullptr || last >= entry) return;
  for (uint32_t i = last + 1; i < entry; ++i) {
    if (listing->entries[i].type == kind) return;
  }
  // It must begin as the one before did.
  const WalkStep& first = type.steps->front();
  if (first.planned.question.calls.size() != question.calls.size()) return;
  for (size_t i = 0; i < question.calls.size(); ++i) {
    if (first.planned.question.calls[i].shape != question.calls[i].shape) return;
  }
  PlanFor(listing, kind, entry);
  begun_.emplace();
  for (const Reply& reply : replies) begun_->push_back(reply.value);
  ++generation_;
}

void EntryPattern::PlanFor(const std::shared_ptr<Listing>& listing, uint8_t type, uint32_t entry) {
  planned_for_ = listing;
  planned_type_ = type;
  steps_ = listing->types[type].steps;
  cursor_ = entry;
  at_cursor_ = true;
  begun_.reset();
  if (!listing->walked) listing->walked = type;
}

// The entries may be others than then, and their directory has another number.
void EntryPattern::PlanAsBefore(const std::shared_ptr<Listing>& listing) {
  const Walk& walk = *past_->walk;
  const auto first = listing->places.find(walk.first);
  if (walk.folder != listing->path || listing->walked || first == listing->places.end()) return;
  if (listing->entries[first->second].type != walk.type) return;
  WalkSteps steps = *walk.steps;
  for (WalkStep& step : steps) {
    for (Question::Call& call : step.planned.question.calls) {
      if (DependsOnFile(call) && call.arguments[call.shape->file] == walk.file) {
        call.arguments[call.shape->file] = listing->file;
      }
    }
  }
  listing->types[walk.type].steps = std::make_shared<const WalkSteps>(std::move(steps));
  if (planned_for_ != nullptr) ++generation_;
  PlanFor(listing, walk.type, first->second);
}

void EntryPattern::RememberWalk(const Listing& listing) {
  const Type& type = listing.types.at(*listing.walked);
  if (type.unforeseen > kMostUnforeseen || type.foreseen <= walk_entries_ || listing.path.empty()) return;
  walk_ = {listing.path, listing.file, *listing.walked, listing.entries[*type.first].name, type.steps};
  walk_entries_ = type.foreseen;
  asked_before_walk_ = type.asked_before;
}

PastRun EntryPattern::Remember() const {
  if (looks_at_files_) return {};
  return {opening_.Take(asked_before_walk_), walk_};
}

std::vector<PlannedQuestion> EntryPattern::PlanOpening() const {
  return past_ == nullptr ? std::vector<PlannedQuestion>() : past_->opening;
}

void EntryPattern::NoteEarly(const Question& question, const std::vector<Reply>& replies) {
  NoteOpened(question, replies);
  NoteListed(question, replies);
}

std::shared_ptr<const WalkSteps> EntryPattern::MakeSteps(const Listing& listing) const {
  if (listing.begin < history_begin_) return nullptr;
  WalkSteps steps;
  Openers openers;
  for (size_t i = listing.begin - history_begin_; i < history_.size(); ++i) {
    const Noted& noted = history_[i];
    WalkStep step{{noted.question, {}}, {}, noted.can_be_planned};
    for (size_t k = 0; k < noted.question.calls.size(); ++k) {
      const Question::Call& call = noted.question.calls[k];
      const std::optional<Match> match = FindEntry(listing, call, k);
      if (match && match->entry == *listing.current) step.names.push_back(match->place);
      if (!DependsOnFile(call)) continue;
      if (const std::optional<FileLink> link = openers.Find(k, call)) {
        step.planned.links.push_back(*link);
      } else if (call.arguments[call.shape->file] != listing.file || call.shape->reads) {
        step.can_be_planned = false;
      }
    }
    openers.Note(steps.size(), noted.question, noted.values);
    steps.push_back(std::move(step));
  }
  return steps.empty() ? nullptr : std::make_shared<const WalkSteps>(std::move(steps));
}

std::optional<std::vector<PlannedQuestion>> EntryPattern::Plan() {
  if (planned_for_ == nullptr) return std::nullopt;
  const bool is_rest = begun_.has_value();
  if (!std::exchange(at_cursor_, false)) {
    const std::optional<uint32_t> next = NextOfType(cursor_);
    if (!next) return std::nullopt;
    cursor_ = *next;
  }
  const std::string& name = planned_for_->entries[cursor_].name;
  std::vector<PlannedQuestion> list;
  // What was asked of another entry may do harm to these.
  if (IsOneOf(name, kLinks) || IsOneOf(name, kFoldersOfLinks) || IsOneOf(name, kConsumed)) {
    begun_.reset();
    return list;
  }
  std::vector<std::optional<size_t>> places(steps_->size());
  for (size_t i = is_rest ? 1 : 0; i < steps_->size(); ++i) {
    const WalkStep& step = (*steps_)[i];
    if (!step.can_be_planned) continue;
    PlannedQuestion planned{step.planned.question, {}};
    bool is_whole = true;
    for (const FileLink& link : step.planned.links) {
      if (is_rest && link.from_question == 0) {
        const int64_t file = link.from_call < begun_->size() ? (*begun_)[link.from_call] : -1;
        planned.question.calls[link.call].arguments[link.argument] = static_cast<uint64_t>(file);
        is_whole = is_whole && file >= 0;
      } else if (places[link.from_question]) {
        planned.links.push_back({link.call, link.argument, *places[link.from_question], link.from_call});
      } else {
        is_whole = false;
      }
    }
    if (!is_whole) continue;
    for (const WalkStep::NamePlace& place : step.names) {
      planned.question.calls[place.call].text.replace(place.at, place.length, name);
    }
    if (!IsAskedSo(planned.question)) continue;
    places[i] = list.size();
    list.push_back(std::move(planned));
  }
  begun_.reset();
  return list;
}

// What is read with the open of one entry may not be with that of another, whose reading does something.
bool EntryPattern::IsAskedSo(const Question& question) const {
  const Question::Call& first = question.calls.front();
  if (!first.shape->opens) return true;
  constexpr size_t kFlags = 2;
  return is_read_ahead_(first.text.c_str(), first.arguments[kFlags]) == (question.calls.size() > 1);
}

std::optional<uint32_t> EntryPattern::NextOfType(uint32_t entry) const {
  const std::vector<Entry>& entries = planned_for_->entries;
  for (uint32_t i = entry + 1; i < entries.size(); ++i) {
    if (entries[i].type == entries[entry].type) return i;
  }
  return std::nullopt;
}

std::optional<EntryPattern::Match> EntryPattern::FindEntry(const Listing& listing, const Question::Call& call,
                                                           size_t index) const {
  const std::string_view text = call.text;
  if (text.empty()) return std::nullopt;
  size_t at = 0;
  if (text[0] == '/') {
    if (listing.path.empty() || !text.starts_with(listing.path)) return std::nullopt;
    at = listing.path.size();
  } else {
    if (!DependsOnFile(call) || call.arguments[call.shape->file] != listing.file) return std::nullopt;
  }
  const size_t length = std::min(text.find('/', at), text.size()) - at;
  const auto place = listing.places.find(std::string(text.substr(at, length)));
  if (place == listing.places.end()) return std::nullopt;
  return Match{place->second, {index, at, length}};
}

bool EntryPattern::CanBePlanned(const Question& question) const {
  uint64_t room = 0;
  for (const Question::Call& call : question.calls) {
    const uint64_t wanted = call.shape->out == CallShape::kNone ? 0 : call.shape->Room(call.arguments);
    if (wanted > kMostRoom) return false;
    room += wanted + call.text.size() + 64;
    // A file that an earlier call of the list opens was looked at there.
    if (call.result_argument != CallShape::kNone) continue;
    if (!StaysInside(PathOf(call), call.shape->opens)) return false;
    // What has been read can be taken back, where it was in a directory cannot be told.
    const bool can_be_taken_back = call.shape->number == SYS_read || call.shape->number == SYS_pread64;
    if (call.shape->reads && (!can_be_taken_back || question.calls.size() > 1)) return false;
  }
  return room <= kMostRoom;
}

std::string EntryPattern::PathOf(const Question::Call& call) const {
  if (!call.text.empty() && call.text[0] == '/') return call.text;
  if (!DependsOnFile(call)) return {};
  const auto folder = paths_.find(call.arguments[call.shape->file]);
  if (folder == paths_.end() || folder->second.empty()) return {};
  return call.text.empty() ? folder->second : folder->second + "/" + call.text;
}

void EntryPattern::NoteOpened(const Question& question, const std::vector<Reply>& replies) {
  for (size_t i = 0; i < replies.size(); ++i) {
    if (!question.calls[i].shape->opens || replies[i].value < 0) continue;
    const uint64_t file = static_cast<uint64_t>(replies[i].value);
    std::string path = PathOf(question.calls[i]);
    const auto known = paths_.find(file);
    // Noted early.
    if (known != paths_.end() && !path.empty() && known->second == path) continue;
    if (paths_.size() >= kMostPaths) paths_.clear();
    Forget(file);
    paths_[file] = std::move(path);
  }
}

void EntryPattern::NoteClosed(uint64_t file) {
  Forget(file);
  opening_.NoteClosed(file);
  if (begun_) std::replace(begun_->begin(), begun_->end(), static_cast<int64_t>(file), int64_t{-1});
}

// What is known of the file that had this number.
void EntryPattern::Forget(uint64_t file) {
  paths_.erase(file);
  if (planned_for_ != nullptr && Uses(*steps_, file)) planned_for_ = nullptr;
  for (const std::shared_ptr<Listing>& listing : listings_) {
    if (listing->file != file) continue;
    listing->file = Listing::kClosed;
    for (auto& [kind, type] : listing->types) {
      if (type.steps != nullptr && Uses(*type.steps, file)) type.steps = nullptr;
    }
  }
  listings_.remove_if([](const std::shared_ptr<Listing>& listing) {
    return listing->file == Listing::kClosed && listing->path.empty();
  });
}

/// Whether the file is asked about, and not one that another step opens.
bool EntryPattern::Uses(const WalkSteps& steps, uint64_t file) {
  return std::any_of(steps.begin(), steps.end(), [&](const WalkStep& step) {
    const std::vector<Question::Call>& calls = step.planned.question.calls;
    return step.can_be_planned && std::any_of(calls.begin(), calls.end(), [&](const Question::Call& call) {
             const size_t index = static_cast<size_t>(&call - calls.data());
             const bool is_linked = std::any_of(step.planned.links.begin(), step.planned.links.end(),
                                                [&](const FileLink& link) { return link.call == index; });
             return !is_linked && DependsOnFile(call) && call.arguments[call.shape->file] == file;
           });
  });
}

void EntryPattern::NoteListed(const Question& question, const std::vector<Reply>& replies) {
  // struct linux_dirent64 (fs/readdir.c): the record's length, the type, the name.
  constexpr size_t kLengthAt = 16, kTypeAt = 18, kNameAt = 19;
  for (size_t i = 0; i < replies.size(); ++i) {
    const Question::Call& call = question.calls[i];
    if (call.shape->number != SYS_getdents64 || replies[i].value <= 0 || replies[i].bytes == nullptr) continue;
    const uint64_t file = call.result_argument == call.shape->file
                              ? static_cast<uint64_t>(replies[call.result_of].value)
                              : call.arguments[call.shape->file];
    auto found = std::find_if(listings_.begin(), listings_.end(),
                              [&](const std::shared_ptr<Listing>& listing) { return listing->file == file; });
    if (found == listings_.end()) {
      const auto made = std::make_shared<Listing>();
      made->file = file;
      const auto path = paths_.find(file);
      if (path != paths_.end() && !path->second.empty()) {
        made->path = path->second.ends_with('/') ? path->second : path->second + "/";
        listings_.remove_if([&](const std::shared_ptr<Listing>& listing) { return listing->path == made->path; });
      }
      if (listings_.size() == kMostListings) {
        const auto closed =
            std::find_if(listings_.begin(), listings_.end(),
                         [](const std::shared_ptr<Listing>& listing) { return listing->file == Listing::kClosed; });
        listings_.erase(closed == listings_.end() ? listings_.begin() : closed);
      }
      listings_.push_back(made);
      found = std::prev(listings_.end());
    }
    Listing& listing = **found;
    const uint8_t* bytes = replies[i].bytes;
    for (uint64_t left = call.shape->Filled(call.arguments, replies[i].value); left > kNameAt;) {
      uint16_t record;
      std::memcpy(&record, bytes + kLengthAt, sizeof record);
      if (record <= kNameAt || record > left || listing.entries.size() >= kMostEntries) break;
      const char* begin = reinterpret_cast<const char*>(bytes + kNameAt);
      std::string name(begin, strnlen(begin, record - kNameAt));
      const bool is_usual = !name.empty() && name.size() <= kMostName && name != "." && name != ".." &&
                            name.find('/') == std::string::npos;
      if (is_usual && listing.places.emplace(name, static_cast<uint32_t>(listing.entries.size())).second) {
        listing.entries.push_back({std::move(name), bytes[kTypeAt]});
      }
      bytes += record;
      left -= record;
    }
    if (past_ != nullptr && past_->walk) PlanAsBefore(*found);
  }
}

}  // namespace penumbra
