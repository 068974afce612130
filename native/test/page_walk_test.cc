// Every reader of page tables against the second implementation, on random and on hostile tables.
#include "memory/page_walk.h"

#include <algorithm>
#include <map>
#include <sstream>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/scan.h"
#include "memory/virtual_reader.h"
#include "test/check.h"
#include "test/made_ram.h"
#include "test/reference_walk.h"

namespace penumbra::test {

namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

// A hole, two neighbours, and memory above 4 GiB.
const std::vector<MadeRegion> kRegions = {{0, 24}, {0x40000, 16}, {0x50000, 8}, {5 * kGiB, 16}};

std::string Name(int levels, uint64_t address) {
  std::ostringstream text;
  text << levels << " levels, address 0x" << std::hex << address;
  return text.str();
}

uint64_t PageIn(const MadeRam& ram, Random& random) {
  const MadeRegion& region = ram.regions()[random.Below(ram.regions().size())];
  return region.gpa + random.Below(region.pages) * kPageSize;
}

// An entry as a kernel writes it, or as only a hostile guest does.
uint64_t MakeEntry(const MadeRam& ram, Random& random) {
  if (random.Chance(10)) return random.Chance(50) ? 0 : random.Word() & ~uint64_t{1};
  if (random.Chance(3)) return random.Word() | 1;
  uint64_t entry =
      PageIn(ram, random) | 1 | (random.Word() & 0x0000000000000e7e) | (random.Word() & 0xfff0000000000000);
  if (random.Chance(25)) entry |= 0x80;
  if (random.Chance(5)) entry |= uint64_t{1} << (13 + random.Below(39));
  // Large pages of which some part is RAM.
  if ((entry & 0x80) != 0 && random.Chance(70)) {
    const uint64_t size = random.Chance(50) ? uint64_t{1} << 21 : kGiB;
    const uint64_t page = PageIn(ram, random);
    entry = (entry & 0xfff0000000000fff) | (page & ~(size - 1)) | (random.Chance(20) ? 0x1000 : 0);
  }
  return entry;
}

// Only a few indices are used at each level, so that addresses meet what was made.
constexpr uint64_t kIndices[] = {0, 1, 2, 255, 256, 510, 511};

void FillTables(const MadeRam& ram, Random& random) {
  for (const MadeRegion& region : ram.regions()) {
    for (uint64_t page = 0; page < region.pages; ++page) {
      const uint64_t gpa = region.gpa + page * kPageSize;
      for (uint64_t word = 0; word < 512; ++word) ram.Store(gpa + word * 8, random.Chance(20) ? random.Word() : 0);
      for (const uint64_t index : kIndices) ram.Store(gpa + index * 8, MakeEntry(ram, random));
    }
  }
}

uint64_t MakeAddress(Random& random, int levels) {
  if (random.Chance(5)) return random.Word();
  uint64_t address = 0;
  for (int level = 0; level < levels; ++level) {
    address = address << 9 | (random.Chance(90) ? kIndices[random.Below(std::size(kIndices))] : random.Below(512));
  }
  address = address << 12 | random.Below(kPageSize);
  const int sign = levels == 5 ? 56 : 47;
  if ((address >> sign & 1) != 0) address |= ~uint64_t{0} << sign;
  if (random.Chance(3)) address ^= uint64_t{1} << (sign + random.Below(64 - static_cast<uint64_t>(sign)));
  return address;
}

WalkResult ResultOf(ReferenceWalk::End end) {
  switch (end) {
    case ReferenceWalk::End::kPage:
      return WalkResult::kMapped;
    case ReferenceWalk::End::kAbsent:
      return WalkResult::kNotPresent;
    case ReferenceWalk::End::kBadAddress:
      return WalkResult::kNotCanonical;
    case ReferenceWalk::End::kReserved:
      return WalkResult::kReserved;
    case ReferenceWalk::End::kNoTable:
      return WalkResult::kOutsideRam;
  }
  return WalkResult::kMapped;
}

void CompareTranslation(const std::string& name, const Translation& actual, const ReferenceWalk& expected) {
  CHECK_EQUAL_IN(name, static_cast<int>(actual.result), static_cast<int>(ResultOf(expected.end)));
  if (expected.end == ReferenceWalk::End::kBadAddress) return;
  CHECK_EQUAL_IN(name, actual.page_size, expected.page_size);
  if (expected.end == ReferenceWalk::End::kNoTable) return;
  CHECK_EQUAL_IN(name, actual.entry, expected.entry);
  if (expected.end == ReferenceWalk::End::kPage) CHECK_EQUAL_IN(name, actual.gpa, expected.physical);
}

// The readable bytes of a range, and how many of them come before the first gap.
struct Expected {
  std::vector<uint8_t> bytes;
  std::vector<bool> present;
  uint64_t before_gap;
};

Expected ExpectRange(const MadeRam& ram, const AddressSpace& space, uint64_t address, uint64_t length) {
  Expected expected{std::vector<uint8_t>(length), std::vector<bool>(length), length};
  const uint8_t* byte = nullptr;
  for (uint64_t i = 0; i < length; ++i, byte += byte == nullptr ? 0 : 1) {
    // No page is smaller than 4 KiB.
    if (i == 0 || ((address + i) & kPageMask) == 0) {
      byte = ByteByTheBook(ram.table(), space.root, space.levels, address + i);
    }
    expected.bytes[i] = byte == nullptr ? 0 : *byte;
    expected.present[i] = byte != nullptr;
    if (byte == nullptr) expected.before_gap = std::min(expected.before_gap, i);
  }
  return expected;
}

void CompareReads(const std::string& name, const Expected& expected, const GuestRam& guest, VirtualReader& reader,
                  uint64_t address) {
  const AddressSpace space = reader.space();
  const uint64_t length = expected.bytes.size();
  std::vector<uint8_t> bytes(length, 0xa5);
  CHECK_EQUAL_IN(name, ReadVirtual(guest, space, address, bytes.data(), length), expected.before_gap);
  CHECK_IN(name,
           std::equal(bytes.begin(), bytes.begin() + static_cast<long>(expected.before_gap), expected.bytes.begin()));

  std::fill(bytes.begin(), bytes.end(), 0xa5);
  CHECK_EQUAL_IN(name, reader.Read(address, bytes.data(), length), expected.before_gap);
  CHECK_IN(name,
           std::equal(bytes.begin(), bytes.begin() + static_cast<long>(expected.before_gap), expected.bytes.begin()));

  std::fill(bytes.begin(), bytes.end(), 0xa5);
  const std::vector<VirtualReader::Hole> holes = reader.ReadPresent(address, bytes.data(), length);
  CHECK_IN(name, bytes == expected.bytes);
  std::vector<bool> present(length, true);
  for (const VirtualReader::Hole& hole : holes) {
    CHECK_IN(name, hole.size > 0 && hole.address - address + hole.size <= length);
    for (uint64_t i = 0; i < hole.size; ++i) present[hole.address - address + i] = false;
  }
  CHECK_IN(name, present == expected.present);

  if (const uint8_t* at = reader.At(address, length)) {
    CHECK_EQUAL_IN(name, expected.before_gap, length);
    CHECK_IN(name, std::equal(expected.bytes.begin(), expected.bytes.end(), at));
  }
  uint64_t word;
  const bool loaded = reader.Load(address, &word);
  CHECK_EQUAL_IN(name, loaded, expected.before_gap >= 8);
  if (loaded) CHECK_IN(name, std::memcmp(&word, expected.bytes.data(), 8) == 0);
}

void CompareExtents(const std::string& name, const MadeRam& ram, const GuestRam& guest, const AddressSpace& space,
                    uint64_t from, uint64_t pages) {
  const uint64_t to = from + pages * kPageSize;
  if (to < from) return;
  const ExtentList found = FindExtents(guest, space, from, to, 4096);
  CHECK_IN(name, found.complete);
  std::map<uint64_t, uint64_t> gpa_of;
  uint64_t previous_end = from;
  for (const Extent& extent : found.extents) {
    CHECK_IN(name, extent.size > 0 && extent.address >= previous_end && extent.address + extent.size <= to);
    CHECK_IN(name, guest.Left(extent.gpa) >= extent.size);
    previous_end = extent.address + extent.size;
    for (uint64_t at = 0; at < extent.size; at += kPageSize) gpa_of[extent.address + at] = extent.gpa + at;
  }
  for (uint64_t address = from; address < to; address += kPageSize) {
    const ReferenceWalk walk = WalkByTheBook(ram.table(), space.root, space.levels, address);
    const bool there = walk.end == ReferenceWalk::End::kPage && ram.table().At(walk.physical, 1) != nullptr;
    const auto extent = gpa_of.find(address);
    CHECK_EQUAL_IN(name, extent != gpa_of.end(), there);
    if (there) CHECK_EQUAL_IN(name, extent->second, walk.physical);
  }
}

}  // namespace

TEST("translations of random and hostile tables, 4 and 5 levels") {
  Random random;
  const MadeRam ram(kRegions);
  const GuestRam mapped(ram.Mapped());
  const GuestRam foreign(ram.Foreign());
  const GuestRam mixed(ram.Mixed());
  std::map<WalkResult, uint64_t> seen;
  for (uint64_t round = 0; round < 120 * CaseFactor(); ++round) {
    FillTables(ram, random);
    const int levels = random.Chance(50) ? 5 : 4;
    const AddressSpace space{random.Chance(3) ? random.Word() : PageIn(ram, random) | random.Below(kPageSize), levels};
    VirtualReader reader(mixed, space);
    for (int i = 0; i < 400; ++i) {
      const uint64_t address = MakeAddress(random, levels);
      const std::string name = Name(levels, address);
      const ReferenceWalk expected = WalkByTheBook(ram.table(), space.root, levels, address);
      const Translation translation = Translate(ram.table(), space, address);
      CompareTranslation(name, translation, expected);
      ++seen[translation.result];
      CompareTranslation(name, Translate(mapped, space, address), expected);
      if (i % 4 == 0) CompareTranslation(name, Translate(foreign, space, address), expected);
      CompareTranslation(name, reader.Translate(address), expected);
    }
  }
  // The test means something only when every way to end is met often.
  for (int result = 0; result <= 4; ++result) CHECK(seen[static_cast<WalkResult>(result)] > 500);
}

TEST("reads through random and hostile tables") {
  Random random;
  const MadeRam ram(kRegions);
  const GuestRam mapped(ram.Mapped());
  const GuestRam foreign(ram.Foreign());
  const GuestRam mixed(ram.Mixed());
  for (uint64_t round = 0; round < 60 * CaseFactor(); ++round) {
    FillTables(ram, random);
    const int levels = random.Chance(50) ? 5 : 4;
    const AddressSpace space{PageIn(ram, random), levels};
    VirtualReader of_mapped(mapped, space);
    VirtualReader of_foreign(foreign, space);
    VirtualReader of_mixed(mixed, space);
    for (int i = 0; i < 40; ++i) {
      const uint64_t address = MakeAddress(random, levels);
      const uint64_t length = 8 + random.Below(3 * kPageSize);
      const std::string name = Name(levels, address);
      const Expected expected = ExpectRange(ram, space, address, length);
      CompareReads(name + ", mapped", expected, mapped, of_mapped, address);
      CompareReads(name + ", foreign", expected, foreign, of_foreign, address);
      CompareReads(name + ", mixed", expected, mixed, of_mixed, address);
    }
  }
}

TEST("scattered reads are the single ones") {
  Random random;
  const MadeRam ram(kRegions);
  const GuestRam mixed(ram.Mixed());
  for (uint64_t round = 0; round < 40 * CaseFactor(); ++round) {
    FillTables(ram, random);
    const AddressSpace space{PageIn(ram, random), 4};
    VirtualReader reader(mixed, space);
    std::vector<VirtualReader::Request> requests;
    std::vector<uint64_t> addresses;
    uint64_t total = 0;
    for (int i = 0; i < 300; ++i) {
      requests.push_back({MakeAddress(random, 4), random.Below(6000)});
      addresses.push_back(requests.back().address);
      total += requests.back().length;
    }
    std::vector<uint8_t> bytes(total, 0xa5);
    std::vector<uint64_t> lengths(requests.size());
    reader.ReadScattered(requests, bytes.data(), lengths.data());
    std::vector<uint64_t> words(addresses.size());
    const std::vector<uint32_t> missing = reader.LoadAll(addresses, words.data());
    uint64_t start = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      const auto [address, length] = requests[i];
      std::vector<uint8_t> one(length);
      CHECK_EQUAL(lengths[i], ReadVirtual(mixed, space, address, one.data(), length));
      std::fill(one.begin() + static_cast<long>(lengths[i]), one.end(), 0);
      CHECK(std::equal(one.begin(), one.end(), bytes.begin() + static_cast<long>(start)));
      start += length;
      uint64_t word = 0;
      const bool there = ReadVirtual(mixed, space, address, &word, 8) == 8;
      CHECK_EQUAL(std::count(missing.begin(), missing.end(), i) == 0, there);
      CHECK_EQUAL(words[i], there ? word : 0);
    }
  }
}

TEST("extents are what the pages say") {
  Random random;
  const MadeRam ram(kRegions);
  const GuestRam mapped(ram.Mapped());
  const GuestRam foreign(ram.Foreign());
  for (uint64_t round = 0; round < 150 * CaseFactor(); ++round) {
    FillTables(ram, random);
    const int levels = random.Chance(50) ? 5 : 4;
    const AddressSpace space{PageIn(ram, random), levels};
    const uint64_t from = MakeAddress(random, levels) & ~kPageMask;
    const uint64_t pages = 1 + random.Below(1200);
    CompareExtents(Name(levels, from), ram, mapped, space, from, pages);
    CompareExtents(Name(levels, from), ram, foreign, space, from, pages);
  }
}

TEST("a walk over tables that loop ends, and can be gone on with") {
  // Every entry of every level leads to the same page, which is its own page table and its own page.
  const MadeRam ram({{0, 4}});
  for (uint64_t index = 0; index < 512; ++index) ram.Store(index * 8, 0x7);
  const GuestRam guest(ram.Mapped());
  const AddressSpace space{0, 5};
  uint64_t visited = 0;
  const auto count = [&visited](const Extent& extent) {
    visited += extent.size;
    return true;
  };
  const uint64_t end = VisitExtents(guest, space, 0, 0, count, 100'000);
  CHECK(end != 0 && visited > 90'000 * kPageSize);
  const uint64_t further = VisitExtents(guest, space, end, 0, count, 100'000);
  CHECK(further > end);
  const ExtentList some = FindExtents(guest, space, 0, 0, 10);
  CHECK_EQUAL(some.extents.size(), 10u);
  CHECK(!some.complete);
  // Nothing is mapped, by way of all tables.
  for (uint64_t index = 0; index < 512; ++index) {
    ram.Store(index * 8, 0x1007);
    ram.Store(0x1000 + index * 8, 0x2007);
    ram.Store(0x2000 + index * 8, 0x3007);
    ram.Store(0x3000 + index * 8, 0x3006);
  }
  CHECK(VisitExtents(guest, {0, 4}, 0, 0, count, 1'000'000) != 0);
  const VirtualHits hits = FindVirtual(guest, {0, 4}, reinterpret_cast<const uint8_t*>("x"), 1, 0, 0, 10, 1 << 20);
  CHECK(hits.next != 0 && hits.addresses.empty());
}

TEST("translations are kept until they are forgotten, and no longer") {
  const MadeRam ram({{0, 16}});
  for (uint64_t level = 0; level < 3; ++level) ram.Store(level * kPageSize, (level + 1) * kPageSize | 3);
  const auto map = [&ram](uint64_t page, uint64_t entry) { ram.Store(3 * kPageSize + page * 8, entry); };
  map(0, 0x5003);
  map(1, 0);
  std::memset(ram.At(0x5000), 0x55, kPageSize);
  std::memset(ram.At(0x6000), 0x66, kPageSize);
  const GuestRam guest(ram.Mapped());
  VirtualReader reader(guest, {0, 4});
  uint64_t word;
  CHECK(reader.Load(0, &word) && word == 0x5555555555555555);
  map(0, 0x6003);
  CHECK(reader.Load(0, &word) && word == 0x5555555555555555);
  for (int i = 0; i < 10'000; ++i) {
    reader.Forget();
    map(0, i % 2 == 0 ? 0x6003 : 0x5003);
    CHECK(reader.Load(0, &word) && word == (i % 2 == 0 ? 0x6666666666666666 : 0x5555555555555555));
  }
  CHECK(!reader.Load(kPageSize, &word));
  CHECK(!reader.Load(kPageSize - 4, &word));
  CHECK(!reader.Load(uint64_t{1} << 63, &word));
  CHECK_EQUAL(reader.counts().hits + reader.counts().misses >= 10'000, true);
}

TEST("a search sees what a naive one sees") {
  Random random;
  const MadeRam ram(kRegions);
  const GuestRam mapped(ram.Mapped());
  const GuestRam foreign(ram.Foreign());
  for (uint64_t round = 0; round < 60 * CaseFactor(); ++round) {
    FillTables(ram, random);
    const AddressSpace space{PageIn(ram, random), 4};
    const uint64_t from = MakeAddress(random, 4);
    const uint64_t length = std::min<uint64_t>(1 + random.Below(20 * kPageSize), ~from);
    const Expected expected = ExpectRange(ram, space, from, length + 16);
    const size_t size = 1 + random.Below(9);
    std::vector<uint8_t> needle(size);
    // Taken from the range, also over the end of a page, so that there is something to be found.
    const uint64_t taken = random.Below(length);
    std::copy_n(expected.bytes.begin() + static_cast<long>(taken), size, needle.begin());
    std::vector<uint64_t> naive;
    for (uint64_t i = 0; i < length; ++i) {
      bool same = true;
      for (size_t k = 0; k < size; ++k) same = same && expected.present[i + k] && expected.bytes[i + k] == needle[k];
      if (same) naive.push_back(from + i);
    }
    for (const GuestRam* guest : {&mapped, &foreign}) {
      std::vector<uint64_t> found;
      for (uint64_t at = from; at < from + length;) {
        const VirtualHits hits =
            FindVirtual(*guest, space, needle.data(), size, at, from + length, 1000, 3 * kPageSize);
        found.insert(found.end(), hits.addresses.begin(), hits.addresses.end());
        CHECK_IN(Name(4, from), hits.next > at);
        at = hits.next;
      }
      CHECK_EQUAL_IN(Name(4, from), found.size(), naive.size());
      CHECK_IN(Name(4, from), found == naive);
    }
  }
}

}  // namespace penumbra::test
