// Where each register lies in the reply to the gdb remote protocol's `g` packet.
#ifndef PENUMBRA_NATIVE_HYPERVISOR_REGISTER_LAYOUT_H_
#define PENUMBRA_NATIVE_HYPERVISOR_REGISTER_LAYOUT_H_

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "hypervisor/registers.h"

namespace penumbra {

class RegisterLayout {
 public:
  /// Reads the `<reg>` elements of a target description in the order in which `g` sends them (gdb manual,
  /// "Target Description Format"; registers inside XML comments do not exist). `description` may be the
  /// beginning of the document: `complete()` tells whether it held every register of VcpuState.
  /// Throws Error("STUB") when a register has another size than QEMU's i386-64bit.xml gives it.
  explicit RegisterLayout(std::string_view description);

  bool complete() const { return missing_.empty(); }
  /// The registers that the description does not name, for an error message.
  const std::string& missing() const { return missing_; }

  /// Takes a vCPU's state out of a `g` reply (hexadecimal text). Throws Error("STUB") when the reply is too
  /// short or not hexadecimal.
  VcpuState Decode(std::string_view hex) const;

 private:
  static constexpr size_t kRegisters = 33;
  std::array<size_t, kRegisters> offsets_{};  // bytes from the start of the reply
  std::string missing_;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_HYPERVISOR_REGISTER_LAYOUT_H_
