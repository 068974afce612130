// What was read of a file before the tool asked for it.
#ifndef PENUMBRA_NATIVE_REDIRECT_READ_AHEAD_H_
#define PENUMBRA_NATIVE_REDIRECT_READ_AHEAD_H_

#include <cstdint>
#include <vector>

#include "redirect/guest_kernel.h"

namespace penumbra {

/// The results of calls that were made in the same entry of the shadow as the open of a file, kept for the calls of the
/// tool that follow. Valid until the guest is asked anything that could make a difference to them.
class ReadAhead {
 public:
  /// Results of one call: of a read, of which pieces can be given of most files, or of a getdents64, which is given
  /// whole.
  struct Part {
    std::vector<uint8_t> bytes;
    uint64_t given = 0;
  };

  bool empty() const { return guest_fd_ < 0; }
  int guest_fd() const { return guest_fd_; }
  bool is_folder() const { return is_folder_; }
  /// Whether a read goes on where a shorter one before it ended.
  bool has_pieces() const { return has_pieces_; }

  void Begin(int guest_fd, bool is_folder, bool has_pieces);
  void Add(const uint8_t* bytes, uint64_t length);
  void Clear() { guest_fd_ = -1; }

  /// What the next call gives; null when it has to be asked. Advance when it was given.
  const Part* Next() const { return next_ < count_ ? &parts_[next_] : nullptr; }
  void Advance(uint64_t bytes);
  /// All that the file has; null when that is not known, or depends on how it is read.
  const std::vector<uint8_t>* Whole() const;
  /// Of a directory: whether nothing follows the next part.
  bool EndsThere() const;

  /// The call that puts the guest's file where the tool believes it is; false when it is there.
  bool Rewind(GuestCall* call) const;

 private:
  static constexpr size_t kMostParts = 2;

  int guest_fd_ = -1;
  bool is_folder_ = false;
  bool has_pieces_ = false;
  size_t count_ = 0, next_ = 0;
  uint64_t position_ = 0;   ///< of a directory: where the parts given end
  Part parts_[kMostParts];  ///< kept from file to file for their memory
};

/// Whether a call changes nothing that another call could give. All that only ask by name are among them.
bool ChangesNothing(uint32_t number);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_READ_AHEAD_H_
