// Whose file a path means.
#include <sys/syscall.h>

#include <cstring>
#include <string>
#include <string_view>

#include "redirect/own_file.h"
#include "redirect/supervisor.h"

namespace penumbra {

namespace {

constexpr uint64_t kPathRoom = 4096;  // PATH_MAX
constexpr char kGuestPrefix[] = "guest:";
constexpr size_t kGuestPrefixLength = sizeof kGuestPrefix - 1;

bool Matches(const LocalPath& local, std::string_view path) {
  if (local.match == LocalPath::kExact) return path == local.path;
  return path.size() > local.path.size() && path.starts_with(local.path) && path[local.path.size()] == '/';
}

/// A way up could lead out of a local folder.
bool HasWayUp(std::string_view path) {
  for (size_t at = path.find(".."); at != std::string_view::npos; at = path.find("..", at + 1)) {
    const bool begins = at == 0 || path[at - 1] == '/';
    const bool ends = at + 2 == path.size() || path[at + 2] == '/';
    if (begins && ends) return true;
  }
  return false;
}

}  // namespace

bool Supervisor::IsLocalPath(const ToolCall& call, const char* path, LocalPath::Use use) const {
  if (path[0] != '/') return false;
  // The loader's search for libraries: theirs is the host, whatever the way. It never looks into /proc or /sys but
  // for its own program.
  const std::string_view text(path);
  if (call.process->IsLoader(call.instruction)) return !text.starts_with("/proc/") && !text.starts_with("/sys/");
  if (text == call.process->script) return true;
  if (HasWayUp(text)) return false;
  for (const LocalPath& local : policy_.local_paths) {
    if (local.kinds != 0 && (local.kinds & call.process->kinds) == 0) continue;
    if (local.use == LocalPath::kOpen && use != LocalPath::kOpen) continue;
    if (Matches(local, text)) return true;
  }
  return false;
}

Supervisor::Place Supervisor::TakePath(const ToolCall& call, uint64_t address, LocalPath::Use use, WindowPiece* path) {
  *path = Take(kPathRoom);
  if (path->host == nullptr) return Place::kFault;
  char* text = reinterpret_cast<char*>(path->host);
  const int length = call.process->memory.ReadString(address, text, kPathRoom);
  if (length < 0) return Place::kFault;
  if (std::strncmp(text, kGuestPrefix, kGuestPrefixLength) == 0) {
    path->host += kGuestPrefixLength;
    path->guest += kGuestPrefixLength;
    return Place::kGuest;
  }
  return IsLocalPath(call, text, use) ? Place::kLocal : Place::kGuest;
}

void Supervisor::NameOwnFile(const ToolCall& call, const WindowPiece& path, bool follows) {
  char* text = reinterpret_cast<char*>(path.host);
  const std::optional<OwnFile> own = FindOwnFile(text);
  if (!own || (own->by_link && !follows)) return;
  const int file = files_.Resolve(*call.process, call.thread, own->fd);
  if (file == ToolProcess::kLocal || file == own->fd) return;
  const std::string named = std::string(own->folder) + "/" + std::to_string(file) + std::string(own->rest);
  if (named.size() < kPathRoom - kGuestPrefixLength) std::memcpy(text, named.c_str(), named.size() + 1);
}

}  // namespace penumbra
