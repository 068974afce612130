#include "redirect/own_file.h"

#include <charconv>
#include <iterator>

namespace penumbra {

namespace {

constexpr std::string_view kStandard[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
constexpr std::string_view kFolders[] = {"/proc/self/fd", "/dev/fd", "/proc/thread-self/fd", "/proc/self/fdinfo",
                                         "/proc/thread-self/fdinfo"};

}  // namespace

std::optional<OwnFile> FindOwnFile(std::string_view path) {
  for (size_t i = 0; i < std::size(kStandard); ++i) {
    if (path == kStandard[i]) return OwnFile{static_cast<int>(i), kFolders[0], {}, true};
  }
  for (const std::string_view folder : kFolders) {
    if (!path.starts_with(folder) || path.size() < folder.size() + 2 || path[folder.size()] != '/') continue;
    const std::string_view name = path.substr(folder.size() + 1);
    int fd = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), fd);
    const size_t digits = static_cast<size_t>(end - name.data());
    const std::string_view rest = name.substr(digits);
    // The kernel knows each by one name only.
    const bool is_name = error == std::errc() && fd >= 0 && (digits == 1 || name[0] != '0');
    if (!is_name || (!rest.empty() && rest[0] != '/')) return std::nullopt;
    return OwnFile{fd, folder, rest, false};
  }
  return std::nullopt;
}

}  // namespace penumbra
