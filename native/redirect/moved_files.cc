#include "redirect/moved_files.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace penumbra {

MovedFiles::~MovedFiles() {
  for (const auto& [guest_fd, file] : moved_) close(file.copy);
}

void MovedFiles::Watch(int guest_fd, int copy, pid_t thread) {
  Forget(guest_fd);
  moved_[guest_fd] = {copy, lseek(copy, 0, SEEK_CUR), thread};
}

std::vector<int> MovedFiles::Ended(pid_t thread) const {
  std::vector<int> ended;
  for (const auto& [guest_fd, file] : moved_) {
    if (file.thread == thread || (kill(file.thread, 0) != 0 && errno == ESRCH)) ended.push_back(guest_fd);
  }
  return ended;
}

off_t MovedFiles::TakeMove(int guest_fd) {
  const auto found = moved_.find(guest_fd);
  if (found == moved_.end()) return 0;
  const off_t now = lseek(found->second.copy, 0, SEEK_CUR);
  return now - std::exchange(found->second.seen, now);
}

void MovedFiles::Forget(int guest_fd) {
  const auto found = moved_.find(guest_fd);
  if (found == moved_.end()) return;
  close(found->second.copy);
  moved_.erase(found);
}

}  // namespace penumbra
