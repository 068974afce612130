// The few things that native tests need: named tests, checks that say what was expected, a seeded random source.
#ifndef PENUMBRA_NATIVE_TEST_CHECK_H_
#define PENUMBRA_NATIVE_TEST_CHECK_H_

#include <cstdint>
#include <functional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>

#include "error.h"

namespace penumbra::test {

class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Adds a test to those that native/test/test_main.cc runs.
struct Test {
  Test(const char* name, std::function<void()> body);
};

#define PENUMBRA_JOIN_(a, b) a##b
#define PENUMBRA_JOIN(a, b) PENUMBRA_JOIN_(a, b)
#define TEST(name)                                                                                        \
  static void PENUMBRA_JOIN(Run, __LINE__)();                                                             \
  static const ::penumbra::test::Test PENUMBRA_JOIN(test_, __LINE__)(name, PENUMBRA_JOIN(Run, __LINE__)); \
  static void PENUMBRA_JOIN(Run, __LINE__)()

template <typename A, typename B>
void CheckEqual(const A& actual, const B& expected, const char* text, int line, const std::string& context = "") {
  if (actual == static_cast<A>(expected)) return;
  std::ostringstream message;
  message << "line " << line << ": " << text << " is 0x" << std::hex << +actual << ", not 0x"
          << +static_cast<A>(expected);
  if (!context.empty()) message << " (" << context << ")";
  throw Failure(message.str());
}

inline void CheckTrue(bool holds, const char* text, int line, const std::string& context = "") {
  if (!holds)
    throw Failure("line " + std::to_string(line) + ": not " + text + (context.empty() ? "" : " (" + context + ")"));
}

template <typename Body>
void CheckThrows(const std::string& code, Body body, int line) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code() == code) return;
    throw Failure("line " + std::to_string(line) + ": Error " + error.code() + ", not " + code + ": " + error.what());
  }
  throw Failure("line " + std::to_string(line) + ": no Error " + code);
}

#define CHECK_EQUAL(actual, expected) ::penumbra::test::CheckEqual(actual, expected, #actual, __LINE__)
#define CHECK_EQUAL_IN(context, actual, expected) \
  ::penumbra::test::CheckEqual(actual, expected, #actual, __LINE__, context)
#define CHECK(condition) ::penumbra::test::CheckTrue(condition, #condition, __LINE__)
#define CHECK_IN(context, condition) ::penumbra::test::CheckTrue(condition, #condition, __LINE__, context)
#define CHECK_THROWS(code, body) ::penumbra::test::CheckThrows(code, body, __LINE__)

/// The same numbers in every run with the same PENUMBRA_SEED (1 unless given).
class Random {
 public:
  Random();
  uint64_t Word() { return engine_(); }
  /// 0 .. bound - 1
  uint64_t Below(uint64_t bound) { return engine_() % bound; }
  bool Chance(uint64_t percent) { return Below(100) < percent; }

 private:
  std::mt19937_64 engine_;
};

/// Multiplies the number of cases of property tests: PENUMBRA_CASES, 1 unless given.
uint64_t CaseFactor();

}  // namespace penumbra::test

#endif  // PENUMBRA_NATIVE_TEST_CHECK_H_
