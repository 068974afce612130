// Rules of redirection made for tests.
#ifndef PENUMBRA_NATIVE_TEST_MADE_POLICY_H_
#define PENUMBRA_NATIVE_TEST_MADE_POLICY_H_

#include <cstdint>
#include <span>

#include "redirect/policy.h"

namespace penumbra::test {

/// What the tool passes, by letter:
///   g  a file of the guest     s  a socket of it        w  a file of it that may be written
///   h  a file of the host      a  any of them           d  AT_FDCWD or a directory of the guest
///   p  a path                  b  a buffer to be written, whose length the next n is
///   B  the same to be read     n  that length           m  its length minus what does not fit, in a variable
///   o  a structure to be written (kStructure bytes)     i  a structure to be read
///   f  an offset or null       v  struct iovec[] to be written, c their count   V  the same to be read
///   r  struct msghdr to receive   R  the same to send   q  struct pollfd[], c their count
///   t  struct timespec         S  the size of e, an fd_set
///   k  a count of words        j  the words, to be written
///   x  a small number          0  zero                  C  a command of ioctl
///   G  SIOCGIFCONF             I  its struct ifconf
struct Row {
  const char* name;
  uint32_t number;
  const char* arguments;
  const char* handler;  ///< null: by the arguments' rules
};

constexpr uint64_t kStructure = 512;

/// The guest's, or the handler's, for each row; everything else is refused. Writes go to the shadow.
Policy MakePolicy(std::span<const Row> rows);

}  // namespace penumbra::test

#endif  // PENUMBRA_NATIVE_TEST_MADE_POLICY_H_
