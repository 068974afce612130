// The one exception type of the native rooms; the binding turns it into a PenumbraError.
#ifndef PENUMBRA_NATIVE_ERROR_H_
#define PENUMBRA_NATIVE_ERROR_H_

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

namespace penumbra {

class Error : public std::runtime_error {
 public:
  /// `code` is one of the stable codes of src/errors.ts; `address` is the guest address concerned, where there is one.
  Error(const char* code, const std::string& message, std::optional<uint64_t> address = std::nullopt)
      : std::runtime_error(message), code_(code), address_(address) {}

  const char* code() const { return code_; }
  std::optional<uint64_t> address() const { return address_; }

 private:
  const char* code_;
  std::optional<uint64_t> address_;
};

/// An Error that carries the text of `errno`; call it before anything else can change errno.
inline Error SystemError(const char* code, const std::string& what) {
  const int number = errno;
  return Error(code, what + ": " + std::strerror(number));
}

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ERROR_H_
