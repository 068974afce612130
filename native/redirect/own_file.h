// Names by which a process means its own open files.
#ifndef PENUMBRA_NATIVE_REDIRECT_OWN_FILE_H_
#define PENUMBRA_NATIVE_REDIRECT_OWN_FILE_H_

#include <optional>
#include <string_view>

namespace penumbra {

/// What /proc/self/fd/5, /dev/stdin, /proc/self/fdinfo/5 or /dev/fd/5/name says.
struct OwnFile {
  int fd;
  std::string_view folder;  ///< that has the number as a name: with it and a slash the path begins
  std::string_view rest;    ///< of the path, behind the number
  bool by_link = false;     ///< the path is /dev/stdin or its like, a link to that

  /// Whether the path leads to the file itself.
  bool IsFile() const { return rest.empty() && folder.ends_with("fd"); }
};

std::optional<OwnFile> FindOwnFile(std::string_view path);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_OWN_FILE_H_
