#include "test/made_policy.h"

#include <cstdio>
#include <cstring>

namespace penumbra::test {

namespace {

ArgumentRule RuleOf(const char* arguments, uint8_t index) {
  ArgumentRule rule = {ArgumentRule::kValue, 0, ArgumentRule::kNone, 0, 1, 0, 1};
  const char next = arguments[index + 1];
  switch (arguments[index]) {
    case 'g':
    case 's':
    case 'w':
    case 'a':
      rule.kind = ArgumentRule::kFd;
      break;
    case 'd':
      rule.kind = ArgumentRule::kDirFd;
      break;
    case 'p':
      rule.kind = ArgumentRule::kPath;
      break;
    case 'b':
      rule.kind = next == 'm' ? ArgumentRule::kOut : ArgumentRule::kFill;
      rule.flags = next == 'm' ? ArgumentRule::kIndirect : 0;
      rule.length_argument = static_cast<uint8_t>(index + 1);
      break;
    case 'B':
      rule.kind = ArgumentRule::kIn;
      rule.length_argument = static_cast<uint8_t>(index + 1);
      break;
    case 'o':
      rule = {ArgumentRule::kOut, 0, ArgumentRule::kNone, 0, kStructure, 1, 1};
      break;
    case 'm':
      rule = {ArgumentRule::kInOut, 0, ArgumentRule::kNone, 0, 4, 1, 1};
      break;
    case 'f':
      rule = {ArgumentRule::kInOut, 0, ArgumentRule::kNone, 0, 8, 1, 1};
      break;
    case 'j':
      rule = {ArgumentRule::kFill, ArgumentRule::kElements, static_cast<uint8_t>(index - 1), 0, 4, 0, 1};
      break;
    default:
      break;
  }
  return rule;
}

}  // namespace

Policy MakePolicy(std::span<const Row> rows) {
  Policy policy;
  policy.calls.resize(Policy::kSyscalls);
  policy.scratch = true;
  for (const Row& row : rows) {
    CallRule& rule = policy.calls[row.number];
    rule.action = row.handler == nullptr ? CallRule::kGuest : CallRule::kHandler;
    rule.argument_count = static_cast<uint8_t>(std::strlen(row.arguments));
    rule.condition_argument = ArgumentRule::kNone;
    std::snprintf(rule.name, sizeof rule.name, "%s", row.name);
    std::snprintf(rule.handler, sizeof rule.handler, "%s", row.handler == nullptr ? "" : row.handler);
    for (uint8_t i = 0; i < 6; ++i) {
      rule.arguments[i] = i < rule.argument_count ? RuleOf(row.arguments, i) : RuleOf("0", 0);
    }
  }
  return policy;
}

}  // namespace penumbra::test
