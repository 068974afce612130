#include "shadow/scratch.h"

#include "error.h"

namespace penumbra {

namespace {

constexpr uint64_t kTable = 0x67;           // present, writable, user, accessed, dirty
constexpr uint64_t kUserPage = 0x67;        // the same for a page
constexpr uint64_t kSupervisorPage = 0x63;  // present, writable, accessed, dirty
constexpr uint64_t kLarge = 1 << 7;
constexpr uint64_t kNoExecute = uint64_t{1} << 63;
constexpr size_t kEntries = 512;
// The middle of the user half: far from where processes and their libraries are.
constexpr uint64_t kFirstSlot = 200;
constexpr uint64_t kLastSlot = 255;

// Flags of a page in the first 2 MiB; 0 where there is none.
uint64_t PageFlags(uint64_t offset) {
  if (offset >= Scratch::kCodeOffset && offset < Scratch::kProgramOffset + Scratch::kProgramSize)
    return kSupervisorPage;
  if (offset >= Scratch::kStateOffset && offset < Scratch::kStateOffset + Scratch::kStateSize) {
    return kSupervisorPage | kNoExecute;
  }
  return 0;
}

}  // namespace

uint64_t Scratch::Map(const AddressSpace& space) {
  const int top_shift = space.levels == 5 ? 48 : 39;
  uint8_t* top = memory_.table().At(space.root & kTableAddressMask, kPageSize);
  if (top == nullptr) throw Error("CORRUPT", "the borrowed task's page table lies outside RAM", space.root);
  uint64_t slot = kFirstSlot;
  uint64_t entry;
  for (;; ++slot) {
    if (slot > kLastSlot) throw Error("CORRUPT", "no free slot in the borrowed task's page table", space.root);
    std::memcpy(&entry, top + slot * 8, sizeof entry);
    if ((entry & 1) == 0) break;
  }
  WriteTables(space.levels);
  entry = memory_.scratch_gpa() | kTable;
  std::memcpy(top + slot * 8, &entry, sizeof entry);
  return slot << top_shift;
}

// From the top: with five levels one table more, each pointing to the next one by its first entry; the directory; the
// table of the first 2 MiB. They are at the start of the window, which does not map them.
void Scratch::WriteTables(int levels) {
  const uint64_t gpa = memory_.scratch_gpa();
  const auto table = [this](int number) { return reinterpret_cast<uint64_t*>(At(number * kPageSize)); };
  const int directory = levels - 3;
  for (int number = 0; number < directory; ++number) table(number)[0] = (gpa + (number + 1) * kPageSize) | kTable;
  table(directory)[0] = (gpa + (directory + 1) * kPageSize) | kTable;
  for (uint64_t offset = kUnit; offset < kSize; offset += kUnit) {
    const uint64_t flags = offset >= kUserOffset ? kUserPage : kSupervisorPage;
    table(directory)[offset / kUnit] = (gpa + offset) | flags | kLarge | kNoExecute;
  }
  uint64_t* pages = table(directory + 1);
  for (size_t i = 0; i < kEntries; ++i) {
    const uint64_t flags = PageFlags(i * kPageSize);
    pages[i] = flags == 0 ? 0 : (gpa + i * kPageSize) | flags;
  }
}

}  // namespace penumbra
