#include "redirect/guest_files.h"

#include <unistd.h>

#include <cerrno>
#include <optional>

namespace penumbra {

namespace {

constexpr uint64_t kMostListed = 256 << 20;  // some eight million entries

}  // namespace

int GuestFiles::Add(int guest_fd, const std::vector<uint8_t>* contents) {
  const int placeholder = placeholders_.Open(guest_fd);
  if (placeholder < 0) return placeholder;
  GuestFile& file = files_[guest_fd] = {};
  if (contents == nullptr) return placeholder;
  if (!contents->empty()) placeholders_.NoteFilled(guest_fd);
  file.whole = pwrite(placeholder, contents->data(), contents->size(), 0) == static_cast<ssize_t>(contents->size());
  if (file.whole) ++wholes_;
  return placeholder;
}

int GuestFiles::AddAnother(int guest_fd) {
  GuestFile* file = Find(guest_fd);
  if (file == nullptr) return -EBADF;
  const int placeholder = placeholders_.OpenAnother(guest_fd);
  if (placeholder >= 0) ++file->placeholders;
  return placeholder;
}

GuestFile* GuestFiles::Find(int guest_fd) {
  const auto found = files_.find(guest_fd);
  return found == files_.end() ? nullptr : &found->second;
}

bool GuestFiles::NoteListed(int guest_fd, uint64_t bytes) {
  GuestFile* file = Find(guest_fd);
  return file == nullptr || (file->listed += bytes) <= kMostListed;
}

int GuestFiles::Resolve(const ToolProcess& process, pid_t thread, int fd) {
  if (fd < 0) return ToolProcess::kLocal;
  // Asked each time: no other account stays true whatever threads, children and executed programs do.
  const std::optional<int> number = Placeholders::NumberOf(process.folder, thread, fd);
  return number && files_.contains(*number) ? *number : ToolProcess::kLocal;
}

std::vector<int> GuestFiles::TakeUnused() {
  std::vector<int> unused;
  for (const int guest_fd : placeholders_.TakeClosed()) {
    GuestFile* file = Find(guest_fd);
    if (file == nullptr || --file->placeholders > 0) continue;
    if (file->whole) --wholes_;
    files_.erase(guest_fd);
    unused.push_back(guest_fd);
  }
  return unused;
}

}  // namespace penumbra
