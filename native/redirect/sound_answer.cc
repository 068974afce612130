#include "redirect/sound_answer.h"

#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include <cstddef>
#include <cstring>
#include <initializer_list>

namespace penumbra {

namespace {

// struct linux_dirent64 and struct linux_dirent (fs/readdir.c): inode, offset, then the record's length in 16 bits.
constexpr uint64_t kRecordLengthAt = 16;
constexpr uint64_t kNameAt64 = 19;
constexpr uint64_t kNameAt = 18;

bool AreEntries(const uint8_t* bytes, uint64_t length, uint64_t name_at) {
  while (length > 0) {
    if (length <= name_at) return false;
    uint16_t record;
    std::memcpy(&record, bytes + kRecordLengthAt, sizeof record);
    if (record <= name_at || record > length || record % 8 != 0) return false;
    const uint8_t* name = bytes + name_at;
    const void* end = std::memchr(name, 0, record - name_at);
    if (end == nullptr || end == name) return false;
    if (std::memchr(name, '/', static_cast<size_t>(static_cast<const uint8_t*>(end) - name)) != nullptr) return false;
    bytes += record;
    length -= record;
  }
  return true;
}

template <typename Value>
bool IsSize(const uint8_t* bytes, uint64_t length, size_t at) {
  Value size;
  if (length < at + sizeof size) return true;
  std::memcpy(&size, bytes + at, sizeof size);
  return static_cast<int64_t>(size) >= 0;
}

bool AreNames(const uint8_t* bytes, uint64_t length) {
  utsname names;
  if (length < sizeof names) return true;
  std::memcpy(&names, bytes, sizeof names);
  for (const char* name :
       {names.sysname, names.nodename, names.release, names.version, names.machine, names.domainname}) {
    if (std::memchr(name, 0, sizeof names.sysname) == nullptr) return false;
  }
  return true;
}

}  // namespace

bool IsSound(uint32_t number, const uint8_t* bytes, uint64_t length) {
  switch (number) {
    case SYS_getdents64:
      return AreEntries(bytes, length, kNameAt64);
    case SYS_getdents:
      return AreEntries(bytes, length, kNameAt);
    case SYS_stat:
    case SYS_lstat:
    case SYS_fstat:
    case SYS_newfstatat:
      return IsSize<int64_t>(bytes, length, offsetof(struct stat, st_size));
    case SYS_statx:
      return IsSize<uint64_t>(bytes, length, offsetof(struct statx, stx_size));
    case SYS_uname:
      return AreNames(bytes, length);
    case SYS_getcwd:
    case SYS_listxattr:
    case SYS_llistxattr:
    case SYS_flistxattr:
      return length == 0 || bytes[length - 1] == 0;
    case SYS_readlink:
    case SYS_readlinkat:
      return std::memchr(bytes, 0, length) == nullptr;
    default:
      return true;
  }
}

}  // namespace penumbra
