// What redirection does with each system call: data that TypeScript compiled from profiles/ (src/redirect/policy.ts has
// the same layout).
#ifndef PENUMBRA_NATIVE_REDIRECT_POLICY_H_
#define PENUMBRA_NATIVE_REDIRECT_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace penumbra {

/// How one argument gets to the guest's kernel and back.
struct ArgumentRule {
  enum Kind : uint8_t {
    kValue = 0,
    kFd = 1,     ///< a guest's file; a call with a local one is the host's business
    kDirFd = 2,  ///< AT_FDCWD or a guest's directory, of the path that follows
    kPath = 3,
    kString = 4,
    kIn = 5,
    kOut = 6,
    kInOut = 7,
    kFill = 8,  ///< written as far as the return value says
  };
  enum Flags : uint8_t {
    kIndirect = 1,  ///< `length_argument` points to the length
    kElements = 2,  ///< the return value counts elements, not bytes
  };
  static constexpr uint8_t kNone = 0xff;

  uint8_t kind;
  uint8_t flags;
  uint8_t length_argument;  ///< index of the argument that counts units; kNone: `plus` is all
  uint8_t reserved;
  uint32_t unit;     ///< bytes per unit
  uint32_t plus;     ///< units added
  uint32_t divisor;  ///< of the counting argument, rounded up
};

struct CallRule {
  enum Action : uint8_t {
    kDeny = 0,     ///< no rule names the call: EPERM, and a line about it
    kFree = 1,     ///< the host's, without being asked about
    kHere = 2,     ///< the host's, if the condition holds
    kGuest = 3,    ///< the guest's, by the arguments' rules
    kScratch = 4,  ///< the guest's where writes are wanted, otherwise as kRefuse
    kRefuse = 5,   ///< EPERM, and a line about it
    kAbsent = 6,   ///< ENOSYS: programs go another way
    kHandler = 7,  ///< by the handler named
  };
  enum Flags : uint8_t {
    kLocalPath = 1,  ///< may be asked of the host where its path is a local one
  };

  uint8_t action;
  uint8_t flags;
  uint8_t argument_count;
  uint8_t condition_argument;  ///< ArgumentRule::kNone: no condition
  uint32_t condition_first;    ///< the values that this argument may have: index into Policy::values
  uint32_t condition_count;
  uint32_t reserved;
  char name[28];
  char handler[20];
  ArgumentRule arguments[6];
};
static_assert(sizeof(ArgumentRule) == 16 && sizeof(CallRule) == 160);

/// A file of the tool's own, which is opened on the host.
struct LocalPath {
  enum Match : uint32_t { kExact = 0, kBelow = 1 };
  enum Use : uint32_t { kOpen = 0, kAny = 1 };  ///< kOpen: what is asked about it by name is the guest's all the same
  uint32_t kinds;                               ///< set of kinds of tools; 0 is all
  uint32_t match;
  uint32_t use;
  std::string path;
};

/// Programs with files of their own.
struct ToolKind {
  uint32_t kind;        ///< one bit
  std::string pattern;  ///< of the program's file name, as in fnmatch(3)
};

struct Policy {
  static constexpr uint32_t kSyscalls = 512;

  std::vector<CallRule> calls;  ///< by number, kSyscalls of them
  std::vector<uint64_t> values;
  std::vector<LocalPath> local_paths;
  std::vector<ToolKind> tool_kinds;
  std::vector<std::string> read_ahead;  ///< patterns of paths, as in fnmatch(3): files that are opened to be read
  bool scratch = false;                 ///< writes succeed in the shadow
  uint32_t most_processes = 512;        ///< of the tool, at once
  uint32_t most_idle_calls = 200'000;   ///< questions for the time in a row, sleeps among them
  uint32_t most_sleeps = 1000;          ///< of all its processes: whoever looks again and again sees nothing new
};

/// Whether a file that is opened so is read in the same entry of the shadow; `patterns` is Policy::read_ahead.
bool IsReadAhead(const std::vector<std::string>& patterns, const char* path, uint64_t flags);

/// Checks and copies the compiled tables. Throws Error BAD_ARGUMENT.
std::vector<CallRule> ReadCallRules(const uint8_t* bytes, size_t size, size_t value_count);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_POLICY_H_
