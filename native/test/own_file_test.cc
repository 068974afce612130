// Names of a process's own files, as the kernel takes them.
#include "redirect/own_file.h"

#include <string>

#include "test/check.h"

namespace penumbra::test {

TEST("own files are known by the names that the kernel gives them") {
  struct Case {
    const char* path;
    int fd;  ///< -1: no such file
    const char* rest;
    bool is_file;
  };
  constexpr Case kCases[] = {
      {"/proc/self/fd/5", 5, "", true},
      {"/dev/fd/0", 0, "", true},
      {"/dev/stderr", 2, "", true},
      {"/proc/thread-self/fd/1234", 1234, "", true},
      {"/proc/self/fd/5/", 5, "/", false},
      {"/proc/self/fd/5/a/b", 5, "/a/b", false},
      {"/proc/self/fdinfo/5", 5, "", false},
      {"/proc/self/fd", -1, "", false},
      {"/proc/self/fd/", -1, "", false},
      {"/proc/self/fd/05", -1, "", false},
      {"/proc/self/fd/5x", -1, "", false},
      {"/proc/self/fd/+5", -1, "", false},
      {"/proc/self/fd/-5", -1, "", false},
      {"/proc/self/fd/99999999999", -1, "", false},
      {"/proc/self/fdx/5", -1, "", false},
      {"/dev/stdin/", -1, "", false},
      {"/dev/stdinx", -1, "", false},
      {"proc/self/fd/5", -1, "", false},
      {"", -1, "", false},
  };
  for (const Case& expected : kCases) {
    const std::optional<OwnFile> own = FindOwnFile(expected.path);
    const std::string where = expected.path;
    CHECK_EQUAL_IN(where, own ? own->fd : -1, expected.fd);
    CHECK_IN(where, !own || own->rest == expected.rest);
    CHECK_IN(where, !own || own->IsFile() == expected.is_file);
  }
}

}  // namespace penumbra::test
