#include "redirect/read_ahead.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>

namespace penumbra {

void ReadAhead::Begin(int guest_fd, bool is_folder, bool has_pieces) {
  guest_fd_ = guest_fd;
  is_folder_ = is_folder;
  has_pieces_ = has_pieces;
  count_ = next_ = 0;
  position_ = 0;
}

void ReadAhead::Add(const uint8_t* bytes, uint64_t length) {
  if (count_ == kMostParts) return;
  parts_[count_].bytes.assign(bytes, bytes + length);
  parts_[count_].given = 0;
  ++count_;
}

void ReadAhead::Advance(uint64_t bytes) {
  Part& part = parts_[next_];
  part.given += bytes;
  if (part.given < part.bytes.size()) return;
  if (is_folder_ && !part.bytes.empty()) {
    // Each entry tells where the next one is (d_off, after its inode); the last one is what counts.
    for (uint64_t at = 0; at < part.bytes.size();) {
      uint16_t record;
      std::memcpy(&position_, part.bytes.data() + at + 8, sizeof position_);
      std::memcpy(&record, part.bytes.data() + at + 16, sizeof record);
      at += record;
    }
  }
  if (++next_ == count_) Clear();
}

const std::vector<uint8_t>* ReadAhead::Whole() const {
  const bool ends = count_ == kMostParts && parts_[1].bytes.empty();
  const bool is_whole = !empty() && !is_folder_ && has_pieces_ && ends && next_ == 0;
  return is_whole ? &parts_[0].bytes : nullptr;
}

bool ReadAhead::EndsThere() const {
  return parts_[next_].bytes.empty() || (next_ + 1 < count_ && parts_[next_ + 1].bytes.empty());
}

bool ReadAhead::Rewind(GuestCall* call) const {
  if (empty()) return false;
  int64_t ahead = 0;
  for (size_t i = next_; i < count_; ++i) ahead += static_cast<int64_t>(parts_[i].bytes.size() - parts_[i].given);
  if (ahead == 0) return false;
  const uint64_t file = static_cast<uint64_t>(guest_fd_);
  *call = {};
  call->number = SYS_lseek;
  call->arguments[0] = file;
  call->arguments[1] = is_folder_ ? position_ : static_cast<uint64_t>(-ahead);
  call->arguments[2] = is_folder_ ? SEEK_SET : SEEK_CUR;
  return true;
}

bool ChangesNothing(uint32_t number) {
  switch (number) {
    case SYS_fstat:
    case SYS_stat:
    case SYS_lstat:
    case SYS_newfstatat:
    case SYS_statx:
    case SYS_statfs:
    case SYS_fstatfs:
    case SYS_access:
    case SYS_faccessat:
    case SYS_faccessat2:
    case SYS_readlink:
    case SYS_readlinkat:
    case SYS_getxattr:
    case SYS_lgetxattr:
    case SYS_fgetxattr:
    case SYS_fcntl:
    case SYS_clock_gettime:
    case SYS_gettimeofday:
    case SYS_getpid:
    case SYS_getppid:
    case SYS_getuid:
    case SYS_geteuid:
    case SYS_getgid:
    case SYS_getegid:
    case SYS_getresuid:
    case SYS_getresgid:
    case SYS_getgroups:
    case SYS_uname:
    case SYS_sysinfo:
    case SYS_sched_getaffinity:
    case SYS_get_mempolicy:
      return true;
    default:
      return false;
  }
}

}  // namespace penumbra
