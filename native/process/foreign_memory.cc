#include "process/foreign_memory.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>

#include "error.h"

namespace penumbra {

namespace {

constexpr uint64_t kPage = 4096;
// IOV_MAX of Linux, include/uapi/linux/uio.h.
constexpr size_t kMostPieces = 1024;
// Documentation/admin-guide/mm/pagemap.rst
constexpr uint64_t kPresentOrSwapped = uint64_t{3} << 62;

}  // namespace

ForeignMemory::ForeignMemory(pid_t pid, int memory_fd) : pid_(pid), fd_(fcntl(memory_fd, F_DUPFD_CLOEXEC, 0)) {
  if (fd_ < 0) throw SystemError("ENGINE", "cannot keep the hypervisor's memory open");
}

ForeignMemory::~ForeignMemory() { close(fd_); }

bool ForeignMemory::Read(uint64_t address, void* out, uint64_t length) const noexcept {
  uint8_t* to = static_cast<uint8_t*>(out);
  while (length > 0) {
    const ssize_t got = pread(fd_, to, length, static_cast<off_t>(address));
    if (got < 0 && errno == EINTR) continue;
    // 0: the process has ended.
    if (got <= 0) return false;
    address += static_cast<uint64_t>(got);
    to += got;
    length -= static_cast<uint64_t>(got);
  }
  return true;
}

size_t ForeignMemory::ReadScattered(std::span<const Piece> pieces) const {
  size_t done = 0;
  while (done < pieces.size()) {
    const auto rest = pieces.subspan(done, std::min(kMostPieces, pieces.size() - done));
    const size_t read = pid_ > 0 && rest.size() > 1 ? ReadBatch(rest) : 0;
    done += read;
    if (read == rest.size()) continue;
    // Either this piece is not there, or process_vm_readv is refused (a container's filter, say).
    const Piece& piece = rest[read];
    if (!Read(piece.address, piece.out, piece.length)) break;
    ++done;
  }
  return done;
}

size_t ForeignMemory::ReadBatch(std::span<const Piece> pieces) const {
  std::vector<iovec> ours(pieces.size());
  std::vector<iovec> theirs(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    ours[i] = {pieces[i].out, pieces[i].length};
    // The kernel takes it for an address of the other process.
    theirs[i] = {reinterpret_cast<void*>(pieces[i].address), pieces[i].length};
  }
  ssize_t got = process_vm_readv(pid_, ours.data(), pieces.size(), theirs.data(), pieces.size(), 0);
  size_t whole = 0;
  while (whole < pieces.size() && got >= static_cast<ssize_t>(pieces[whole].length)) {
    got -= static_cast<ssize_t>(pieces[whole].length);
    ++whole;
  }
  // What the descriptor is bound to still lives, so the pid belonged to it during the call above.
  uint8_t byte;
  return whole > 0 && Read(pieces[0].address, &byte, 1) ? whole : 0;
}

std::vector<ForeignMemory::Run> ForeignMemory::FindPopulated(uint64_t address, uint64_t size) const {
  const std::string path = "/proc/" + std::to_string(pid_) + "/pagemap";
  const int fd = pid_ > 0 ? open(path.c_str(), O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return {{address, size}};
  std::vector<Run> runs;
  std::array<uint64_t, 8192> entries;
  for (uint64_t at = address; at < address + size;) {
    const uint64_t pages = std::min<uint64_t>((address + size - at + kPage - 1) / kPage, entries.size());
    if (pread(fd, entries.data(), pages * 8, static_cast<off_t>(at / kPage * 8)) != static_cast<ssize_t>(pages * 8)) {
      runs.push_back({at, address + size - at});
      break;
    }
    for (uint64_t i = 0; i < pages; ++i, at += kPage) {
      if ((entries[i] & kPresentOrSwapped) == 0) continue;
      if (!runs.empty() && runs.back().address + runs.back().size == at) {
        runs.back().size += kPage;
      } else {
        runs.push_back({at, kPage});
      }
    }
  }
  close(fd);
  return runs;
}

}  // namespace penumbra
