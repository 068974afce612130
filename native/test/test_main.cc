// Runs the native tests: TAP on standard output, exit status 1 when one failed. Arguments are parts of names.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "test/check.h"

namespace penumbra::test {

namespace {

std::vector<std::pair<std::string, std::function<void()>>>& Tests() {
  static std::vector<std::pair<std::string, std::function<void()>>> tests;
  return tests;
}

uint64_t FromEnvironment(const char* name) {
  const char* const text = std::getenv(name);
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

std::string Run(const std::function<void()>& body) {
  try {
    body();
    return "";
  } catch (const Failure& failure) {
    return failure.what();
  } catch (const Error& error) {
    return std::string("Error ") + error.code() + ": " + error.what();
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace

Test::Test(const char* name, std::function<void()> body) { Tests().emplace_back(name, std::move(body)); }

Random::Random() : engine_(FromEnvironment("PENUMBRA_SEED")) {}

uint64_t CaseFactor() { return FromEnvironment("PENUMBRA_CASES"); }

int RunAll(const std::vector<std::string>& wanted) {
  int failed = 0;
  int number = 0;
  for (const auto& [name, body] : Tests()) {
    bool chosen = wanted.empty();
    for (const std::string& part : wanted) chosen = chosen || name.find(part) != std::string::npos;
    if (!chosen) continue;
    const std::string failure = Run(body);
    std::printf("%s %d - %s\n", failure.empty() ? "ok" : "not ok", ++number, name.c_str());
    if (!failure.empty()) std::printf("# %s\n", failure.c_str());
    std::fflush(stdout);
    failed += failure.empty() ? 0 : 1;
  }
  std::printf("1..%d\n", number);
  return failed == 0 && number > 0 ? 0 : 1;
}

}  // namespace penumbra::test

int main(int count, char** arguments) { return penumbra::test::RunAll({arguments + 1, arguments + count}); }
