#include "shadow/scratch.h"

#include "error.h"

namespace penumbra {

namespace {

constexpr uint64_t kTable = 0x67;           // present, writable, user, accessed, dirty
constexpr uint64_t kUserPage = 0x67;        // the same for a page
constexpr uint64_t kSupervisorPage = 0x63;  // present, writable, accessed, dirty
constexpr uint64_t kNoExecute = uint64_t{1} << 63;
// The middle of the user half: far from where processes and their libraries are.
constexpr uint64_t kFirstSlot = 200;
constexpr uint64_t kLastSlot = 255;

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
  // Tables 0..2 (0..1 with four levels) point to the next one, the last one holds the pages of the window.
  uint64_t* tables = reinterpret_cast<uint64_t*>(memory_.scratch());
  const int count = space.levels - 1;
  const uint64_t gpa = memory_.scratch_gpa();
  for (int i = 0; i + 1 < count; ++i) tables[i * 512] = (gpa + (i + 1) * kPageSize) | kTable;
  uint64_t* pages = tables + (count - 1) * 512;
  for (uint64_t offset = 0; offset < kSize; offset += kPageSize) {
    uint64_t flags = 0;
    if (offset >= kDataOffset) {
      flags = kUserPage | kNoExecute;
    } else if (offset == kCodeOffset) {
      flags = kSupervisorPage;
    }
    pages[offset / kPageSize] = flags == 0 ? 0 : (gpa + offset) | flags;
  }
  entry = gpa | kTable;
  std::memcpy(top + slot * 8, &entry, sizeof entry);
  return slot << top_shift;
}

}  // namespace penumbra
