// Guest RAM behind mappings and behind a process, and private copies of it.
#include "memory/guest_ram.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "memory/private_ram.h"
#include "memory/scan.h"
#include "test/check.h"
#include "test/made_ram.h"

namespace penumbra::test {

namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
const std::vector<MadeRegion> kRegions = {{0, 64}, {0x40000, 64}, {4 * kGiB, 128}};
constexpr uint64_t kScratch = 8 * kGiB;

void FillWithNumbers(const MadeRam& ram, uint64_t salt = 0) {
  for (const MadeRegion& region : ram.regions()) {
    for (uint64_t at = 0; at < region.pages * kPageSize; at += 8)
      ram.Store(region.gpa + at, (region.gpa + at) * 3 + salt);
  }
}

uint64_t WordAt(const RegionTable& table, uint64_t gpa) {
  uint64_t word = 0;
  CHECK(table.Load(gpa, &word));
  return word;
}

uint64_t GpaAt(Random& random) {
  const MadeRegion& region = kRegions[random.Below(kRegions.size())];
  return region.gpa + random.Below(region.pages * kPageSize / 8) * 8;
}

constexpr size_t kLimit = 300;

std::vector<uint64_t> NaiveFind(const MadeRam& ram, const std::vector<uint8_t>& needle, uint64_t from, uint64_t to) {
  std::vector<uint64_t> found;
  for (const MadeRegion& region : ram.regions()) {
    const uint8_t* const bytes = ram.At(region.gpa);
    const uint64_t size = region.pages * kPageSize;
    for (uint64_t i = 0; i + needle.size() <= size; ++i) {
      const uint64_t gpa = region.gpa + i;
      if (found.size() == kLimit) return found;
      if (gpa >= from && gpa < to && std::equal(needle.begin(), needle.end(), bytes + i)) found.push_back(gpa);
    }
  }
  return found;
}

void CheckPrivate(const MadeRam& ram, const std::vector<RamDescriptor>& descriptors, Touch touch) {
  Random random;
  FillWithNumbers(ram);
  const GuestRam guest(descriptors);
  PrivateRam copy(guest, kScratch, 16 * kPageSize, touch);
  for (uint64_t round = 1; round <= 20; ++round) {
    for (int i = 0; i < 200; ++i) {
      const uint64_t gpa = GpaAt(random);
      CHECK_EQUAL(WordAt(copy.table(), gpa), gpa * 3 + round - 1);
      if (random.Chance(50)) continue;
      // A write stays private.
      const uint64_t word = random.Word();
      std::memcpy(copy.table().At(gpa, 8), &word, 8);
      CHECK_EQUAL(WordAt(copy.table(), gpa), word);
      CHECK_EQUAL(WordAt(ram.table(), gpa), gpa * 3 + round - 1);
      const uint64_t restored = gpa * 3 + round - 1;
      std::memcpy(copy.table().At(gpa, 8), &restored, 8);
    }
    CHECK(copy.page_count() <= 257);
    if (round % 7 == 0) {
      copy.DropAll();
      CHECK_EQUAL(copy.page_count(), 0u);
    } else {
      copy.CollectPrivatePages(round % 3 == 0 ? 10 : 10'000);
      if (round % 3 == 0) CHECK(copy.page_count() <= 50);
    }
    FillWithNumbers(ram, round);
    copy.Refresh();
    copy.RequireWhole();
  }
}

}  // namespace

TEST("regions that overlap, wrap or are no whole pages are refused") {
  const MadeRam ram(kRegions);
  std::vector<RamDescriptor> descriptors = ram.Mapped();
  descriptors[1].gpa = 0x3f000;
  CHECK_THROWS("BAD_ARGUMENT", [&] { GuestRam guest(descriptors); });
  descriptors[1].gpa = 0x40010;
  CHECK_THROWS("BAD_ARGUMENT", [&] { GuestRam guest(descriptors); });
  descriptors[1].gpa = ~uint64_t{0} - kPageMask;
  CHECK_THROWS("BAD_ARGUMENT", [&] { GuestRam guest(descriptors); });
}

TEST("reads cross neighbouring regions and stop at holes") {
  const MadeRam ram(kRegions);
  FillWithNumbers(ram);
  for (const auto& descriptors : {ram.Mapped(), ram.Foreign(), ram.Mixed()}) {
    const GuestRam guest(descriptors);
    std::vector<uint8_t> bytes(128 * kPageSize);
    guest.Read(0, bytes.data(), bytes.size());
    for (uint64_t at = 0; at < bytes.size(); at += 8) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + at, 8);
      CHECK_EQUAL(word, at * 3);
    }
    CHECK_THROWS("BAD_ADDRESS", [&] { guest.Read(0x7fffc, bytes.data(), 8); });
    CHECK_THROWS("BAD_ADDRESS", [&] { guest.Read(~uint64_t{0}, bytes.data(), 8); });
    CHECK_EQUAL(guest.Left(0x7ffff), 0x80000u - 0x7ffff);
    CHECK_EQUAL(guest.Left(0x80000), 0u);
    CHECK_EQUAL(guest.Gap(0x80000), 4 * kGiB - 0x80000);
    std::vector<GuestRam::Piece> pieces;
    for (uint64_t i = 0; i < 3000; ++i)
      pieces.push_back({i % 128 * kPageSize, bytes.data() + i % 128 * kPageSize, kPageSize});
    std::fill(bytes.begin(), bytes.end(), 0);
    CHECK_EQUAL(guest.CopyScattered(pieces), pieces.size());
    uint64_t word;
    std::memcpy(&word, bytes.data() + 0x42008, 8);
    CHECK_EQUAL(word, uint64_t{0x42008} * 3);
    pieces[2500].gpa = 0x80000;
    CHECK_EQUAL(guest.CopyScattered(pieces), 2500u);
  }
}

TEST("a search over RAM sees what a naive one sees") {
  Random random;
  const MadeRam ram(kRegions);
  // Sparse: most pages stay holes of the file.
  for (int i = 0; i < 40; ++i) {
    uint8_t* const at = ram.At(GpaAt(random));
    at[0] = static_cast<uint8_t>(1 + random.Below(3));
  }
  for (const auto& descriptors : {ram.Mapped(), ram.Foreign()}) {
    const GuestRam guest(descriptors);
    for (int i = 0; i < 60; ++i) {
      std::vector<uint8_t> needle(1 + random.Below(5), 0);
      needle[random.Below(needle.size())] = static_cast<uint8_t>(random.Below(4));
      if (random.Chance(20)) needle = std::vector<uint8_t>(4095 + random.Below(3), 0);
      if (random.Chance(30)) needle.back() = 1;
      const uint64_t from = random.Chance(50) ? 0 : GpaAt(random);
      const uint64_t to = random.Chance(50) ? ~uint64_t{0} : GpaAt(random);
      const std::vector<uint64_t> expected = NaiveFind(ram, needle, from, to);
      const std::vector<uint64_t> found = FindBytes(guest, needle.data(), needle.size(), from, to, kLimit);
      CHECK_EQUAL(found.size(), expected.size());
      CHECK(found == expected);
      if (!expected.empty()) {
        CHECK_EQUAL(FindBytes(guest, needle.data(), needle.size(), from, to, 1).at(0), expected[0]);
      }
    }
  }
}

TEST("a search fills no holes of the file") {
  const MadeRam ram({{0, 4096}});
  ram.At(2000 * kPageSize)[5] = 7;
  const GuestRam guest(ram.Mapped());
  const uint8_t needle = 7;
  CHECK_EQUAL(FindBytes(guest, &needle, 1, 0, ~uint64_t{0}, 10).size(), 1u);
  struct stat status;
  CHECK_EQUAL(fstat(ram.fd(), &status), 0);
  CHECK(static_cast<uint64_t>(status.st_blocks) * 512 <= 4 * kPageSize);
}

TEST("private memory by copy-on-write") {
  const MadeRam ram(kRegions);
  CheckPrivate(ram, ram.Mapped(), Touch::kUserCode);
}

TEST("private memory copied on touch, in the thread that touches") {
  const MadeRam ram(kRegions);
  CheckPrivate(ram, ram.Foreign(), Touch::kUserCode);
  CheckPrivate(ram, ram.Copied(), Touch::kUserCode);
  CheckPrivate(ram, ram.Mixed(), Touch::kUserCode);
}

TEST("private memory copied on touch, by a thread of its own") {
  const MadeRam ram(kRegions);
  try {
    CheckPrivate(ram, ram.Foreign(), Touch::kAnyone);
    CheckPrivate(ram, ram.Copied(), Touch::kAnyone);
  } catch (const Error& error) {
    // Not every user may.
    CHECK(std::string(error.code()) == "PERMISSION" && geteuid() != 0);
    return;
  }
  // The kernel touches it: a pipe is read into a page that is not there yet.
  const GuestRam guest(ram.Foreign());
  PrivateRam copy(guest, kScratch, kPageSize, Touch::kAnyone);
  int ends[2];
  CHECK_EQUAL(pipe(ends), 0);
  CHECK_EQUAL(write(ends[1], "penumbra", 8), 8);
  CHECK_EQUAL(read(ends[0], copy.table().At(0x41008, 8), 8), 8);
  CHECK(std::memcmp(copy.table().At(0x41008, 8), "penumbra", 8) == 0);
  CHECK_EQUAL(WordAt(copy.table(), 0x41000), WordAt(ram.table(), 0x41000));
  close(ends[0]);
  close(ends[1]);
}

TEST("what lies over the guest's bytes stays until the page changes in any other way") {
  const MadeRam ram(kRegions);
  FillWithNumbers(ram);
  const GuestRam guest(ram.Mapped());
  PrivateRam copy(guest, kScratch, kPageSize);
  Random random;
  constexpr uint64_t kPages[] = {0x2000, 0x3000, 0x41000, 4 * kGiB};
  constexpr uint64_t kOffsets[] = {0, 0x10, 0x123, kPageSize - 11};
  const std::vector<uint8_t> code(11, 0xf4);
  const auto put_over = [&] {
    for (const uint64_t page : kPages) {
      for (const uint64_t offset : kOffsets) CHECK(copy.Overlay(page + offset, code.data(), 1 + offset % 11));
    }
  };
  const auto is_over = [&](uint64_t at) {
    return std::any_of(std::begin(kOffsets), std::end(kOffsets),
                       [&](uint64_t offset) { return at - offset < 1 + offset % 11; });
  };
  for (int round = 0; round < 300; ++round) {
    put_over();
    copy.CollectPrivatePages(1000);
    std::set<uint64_t> changed;
    for (const uint64_t page : kPages) {
      const uint64_t at = random.Below(kPageSize);
      if (random.Chance(30)) {
        ++ram.At(page)[at];
        changed.insert(page);
      }
      if (random.Chance(30)) {
        ++*copy.table().At(page + random.Below(kPageSize), 1);
        changed.insert(page);
      }
    }
    const uint64_t losses = copy.overlay_losses();
    copy.Refresh();
    CHECK_EQUAL(copy.overlay_losses() - losses, changed.size());
    for (const uint64_t page : kPages) {
      const uint8_t* const own = copy.table().At(page, kPageSize);
      for (uint64_t at = 0; at < kPageSize; ++at) {
        const bool over = changed.count(page) == 0 && is_over(at);
        if (own[at] != (over ? code[0] : ram.At(page)[at])) CHECK_EQUAL(at, page);
      }
    }
    if (round % 50 != 0) continue;
    copy.DropAll();
    CHECK(copy.overlay_losses() > losses + changed.size() || changed.size() == std::size(kPages));
  }
}

TEST("of pages with something over them, one that is looked at speaks for all") {
  const MadeRam ram(kRegions);
  FillWithNumbers(ram);
  const GuestRam guest(ram.Mapped());
  PrivateRam copy(guest, kScratch, kPageSize);
  constexpr uint64_t kPages[] = {0x2000, 0x3000, 0x41000, 4 * kGiB};
  constexpr uint64_t kOther = 0x5000;
  constexpr uint8_t kCode = 0xf4;
  for (const uint64_t page : kPages) CHECK(copy.Overlay(page + 8, &kCode, 1));
  *copy.table().At(kOther, 1) = kCode;
  copy.CollectPrivatePages(1000);
  ++ram.At(kPages[1])[100];
  ++ram.At(kPages[2])[100];
  size_t turns = 0;
  for (; copy.overlay_losses() == 0; ++turns) {
    CHECK(turns < std::size(kPages));
    *copy.table().At(kOther, 1) = kCode;
    copy.Refresh(PrivateRam::Look::kOneInTurn);
    CHECK_EQUAL(*copy.table().At(kOther, 1), *ram.At(kOther));
  }
  CHECK_EQUAL(copy.overlay_losses(), 2u);
  for (const uint64_t page : kPages) {
    const bool over = page == kPages[0] || page == kPages[3];
    CHECK_EQUAL(*copy.table().At(page + 8, 1), over ? kCode : ram.At(page)[8]);
    CHECK_EQUAL(*copy.table().At(page + 100, 1), ram.At(page)[100]);
  }
}

TEST("RAM that is unplugged in the middle") {
  MadeRam ram(kRegions);
  FillWithNumbers(ram);
  const GuestRam guest(ram.Foreign());
  PrivateRam copy(guest, kScratch, kPageSize);
  CHECK_EQUAL(WordAt(copy.table(), 4 * kGiB), 4 * kGiB * 3);
  ram.Unplug();
  uint64_t word;
  CHECK_THROWS("GUEST_GONE", [&] { guest.Read(4 * kGiB, &word, 8); });
  // What was copied before is still there; what was not reads as zeros, and that is not kept secret.
  CHECK_EQUAL(WordAt(copy.table(), 4 * kGiB), 4 * kGiB * 3);
  copy.RequireWhole();
  CHECK_EQUAL(WordAt(copy.table(), 4 * kGiB + kPageSize), 0u);
  CHECK_THROWS("GUEST_GONE", [&] { copy.RequireWhole(); });
  // The other regions go on.
  copy.Refresh();
  copy.RequireWhole();
  CHECK_EQUAL(WordAt(copy.table(), 0x40000), uint64_t{0x40000} * 3);
  copy.RequireWhole();
}

TEST("a RAM file that is cut short is an error, not a signal") {
  const MadeRam ram(kRegions);
  FillWithNumbers(ram);
  const GuestRam guest(ram.Mapped());
  PrivateRam copy(guest, kScratch, kPageSize);
  CHECK_EQUAL(WordAt(copy.table(), 0x40000), uint64_t{0x40000} * 3);
  CHECK_EQUAL(ftruncate(ram.fd(), 4 * kPageSize), 0);
  uint64_t word;
  CHECK_THROWS("GUEST_GONE", [&] { guest.Read(0x40000, &word, 8); });
  CHECK_THROWS("GUEST_GONE", [&] { copy.RequireWhole(); });
  CHECK_EQUAL(WordAt(copy.table(), 4 * kGiB), 0u);
}

TEST("a process that has ended") {
  const MadeRam ram({{0, 16}});
  int ready[2];
  CHECK_EQUAL(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    // Its own memory, at the address that the parent knows.
    CHECK_EQUAL(write(ready[1], "!", 1), 1);
    for (;;) pause();
  }
  char byte;
  CHECK_EQUAL(read(ready[0], &byte, 1), 1);
  RamDescriptor descriptor = ram.Foreign()[0];
  descriptor.fd = open(("/proc/" + std::to_string(child) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
  descriptor.pid = child;
  {
    const GuestRam guest({descriptor});
    close(descriptor.fd);
    uint64_t word;
    guest.Read(0, &word, 8);
    kill(child, SIGKILL);
    CHECK_EQUAL(waitpid(child, nullptr, 0), child);
    CHECK_THROWS("GUEST_GONE", [&] { guest.Read(0, &word, 8); });
    std::vector<uint8_t> bytes(2 * kPageSize);
    const GuestRam::Piece pieces[] = {{0, bytes.data(), kPageSize}, {kPageSize, bytes.data() + kPageSize, kPageSize}};
    CHECK_EQUAL(guest.CopyScattered(pieces), 0u);
  }
  close(ready[0]);
  close(ready[1]);
}

TEST("making and dropping many leaves nothing behind") {
  const MadeRam ram(kRegions);
  const auto count_fds = [] {
    std::set<int> open_fds;
    for (int fd = 0; fd < 1024; ++fd) {
      if (fcntl(fd, F_GETFD) >= 0) open_fds.insert(fd);
    }
    return open_fds.size();
  };
  const size_t before = count_fds();
  for (int i = 0; i < 300; ++i) {
    const GuestRam guest(i % 2 == 0 ? ram.Mixed() : ram.Copied());
    PrivateRam copy(guest, kScratch, kPageSize);
    CHECK_EQUAL(WordAt(copy.table(), 8), 0u);
  }
  CHECK_EQUAL(count_fds(), before);
}

}  // namespace penumbra::test
