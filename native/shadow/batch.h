// A list of calls that run one after the other in one shadow, without anybody asking in between.
#ifndef PENUMBRA_NATIVE_SHADOW_BATCH_H_
#define PENUMBRA_NATIVE_SHADOW_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace penumbra {

/// One argument as it stands in the encoded batch. All offsets are bytes from the start of the batch.
struct ArgumentRecord {
  enum Kind : uint32_t {
    kValue = 0,   ///< `value` as it is
    kIn = 1,      ///< address of `size` bytes copied from `payload`
    kOut = 2,     ///< address of `size` zero bytes, given back after the call
    kInOut = 3,   ///< both
    kResult = 4,  ///< what step number `value` returned; when that is an error this step is not run
  };
  enum Flags : uint32_t {
    kLengthIsResult = 1,  ///< give back only as many bytes as the call returned
  };
  uint32_t kind;
  uint32_t flags;
  uint32_t size;
  uint32_t payload;
  uint64_t value;
  uint32_t fixups;  ///< index of the first FixupRecord
  uint32_t fixup_count;
};

/// A pointer inside a buffer to another place of the same buffer: the buffer's address + `target` is stored at
/// `offset`.
struct FixupRecord {
  uint32_t offset;
  uint32_t target;
};

struct StepRecord {
  enum Flags : uint32_t {
    kRepeat = 1,    ///< call again while it returns more than 0 and fewer than `limit` bytes came in all
    kFunction = 2,  ///< `target` is the address of a kernel function, not a syscall number
    kDirect = 4,    ///< call the syscall's handler without the kernel's entry and exit work
    kProgram = 8,   ///< run program number `target` of native/inshadow with up to five arguments
  };
  uint64_t target;
  uint32_t flags;
  uint32_t argument_count;
  uint32_t first_argument;
  uint32_t limit;
};

struct BatchHeader {
  uint32_t step_count;
  uint32_t argument_count;
  uint32_t fixup_count;
  uint32_t reserved;
};

/// A view of an encoded batch, checked once: header, steps, arguments, fixups, payload, in this order.
class Batch {
 public:
  static constexpr uint32_t kMaxArguments = 6;

  /// Throws Error BAD_ARGUMENT when anything points outside `bytes`, which must outlive the batch.
  Batch(const uint8_t* bytes, size_t size);

  const uint8_t* bytes() const { return bytes_; }
  size_t size() const { return size_; }
  /// Where the parts begin.
  uint64_t steps_offset() const { return sizeof header_; }
  uint64_t arguments_offset() const { return steps_offset() + uint64_t{header_.step_count} * sizeof(StepRecord); }
  uint64_t fixups_offset() const {
    return arguments_offset() + uint64_t{header_.argument_count} * sizeof(ArgumentRecord);
  }
  uint64_t payload_offset() const { return fixups_offset() + uint64_t{header_.fixup_count} * sizeof(FixupRecord); }
  uint32_t argument_count() const { return header_.argument_count; }

  const StepRecord* steps() const { return steps_; }
  uint32_t step_count() const { return header_.step_count; }
  const ArgumentRecord& argument(uint32_t index) const { return arguments_[index]; }
  const FixupRecord& fixup(uint32_t index) const { return fixups_[index]; }

 private:
  const uint8_t* bytes_;
  size_t size_;
  BatchHeader header_;
  const StepRecord* steps_;
  const ArgumentRecord* arguments_;
  const FixupRecord* fixups_;
};

/// Bytes given back for one argument record.
struct OutRecord {
  uint32_t step;
  uint32_t argument;  ///< index of the argument record
  uint32_t offset;    ///< in BatchResult::bytes
  uint32_t length;
};

/// Why a call ended otherwise than by returning.
struct CallFailure {
  const char* code;  ///< see src/errors.ts
  std::string message;
  uint64_t address;               ///< where execution stood
  std::vector<uint64_t> callers;  ///< text addresses found on the stack, innermost first; some may be stale
};

struct BatchResult {
  std::vector<int64_t> values;    ///< of the steps completed
  std::vector<uint32_t> blocked;  ///< those steps among them that returned because they would have slept
  std::vector<OutRecord> outs;
  std::vector<uint8_t> bytes;
  std::optional<CallFailure> failure;  ///< of step number values.size()
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_SHADOW_BATCH_H_
