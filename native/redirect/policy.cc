#include "redirect/policy.h"

#include <fcntl.h>
#include <fnmatch.h>

#include <algorithm>
#include <cstring>

#include "error.h"

namespace penumbra {

namespace {

void Require(bool condition) {
  if (!condition) throw Error("BAD_ARGUMENT", "malformed redirection policy");
}

}  // namespace

bool IsReadAhead(const std::vector<std::string>& patterns, const char* path, uint64_t flags) {
  if ((flags & O_PATH) != 0) return false;
  if ((flags & O_DIRECTORY) != 0) return true;
  if ((flags & O_ACCMODE) != O_RDONLY) return false;
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return fnmatch(pattern.c_str(), path, 0) == 0; });
}

std::vector<CallRule> ReadCallRules(const uint8_t* bytes, size_t size, size_t value_count) {
  Require(size == Policy::kSyscalls * sizeof(CallRule));
  std::vector<CallRule> rules(Policy::kSyscalls);
  std::memcpy(rules.data(), bytes, size);
  for (const CallRule& rule : rules) {
    Require(rule.action <= CallRule::kHandler && rule.argument_count <= 6);
    Require(rule.name[sizeof rule.name - 1] == 0 && rule.handler[sizeof rule.handler - 1] == 0);
    Require(rule.condition_argument == ArgumentRule::kNone ||
            (rule.condition_argument < 6 && rule.condition_first <= value_count &&
             rule.condition_count <= value_count - rule.condition_first));
    for (const ArgumentRule& argument : rule.arguments) {
      Require(argument.kind <= ArgumentRule::kFill && argument.divisor != 0);
      Require(argument.length_argument == ArgumentRule::kNone || argument.length_argument < 6);
    }
  }
  return rules;
}

}  // namespace penumbra
