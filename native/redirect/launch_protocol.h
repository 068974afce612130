// What supervisor and launcher say to each other on the control socket (SOCK_SEQPACKET).
//
//   to the launcher:    one packet with the seccomp filter's instructions
//   to the supervisor:  LaunchMessage kListening with the notification fd, later one of kEnded or kFailed
//
// When the socket is closed the launcher ends every process of the tool, and then itself.
#ifndef PENUMBRA_NATIVE_REDIRECT_LAUNCH_PROTOCOL_H_
#define PENUMBRA_NATIVE_REDIRECT_LAUNCH_PROTOCOL_H_

#include <cstdint>

namespace penumbra {

struct LaunchMessage {
  enum Kind : uint32_t {
    kListening = 1,  ///< `value` is the tool's pid
    kFailed = 2,     ///< the tool could not be started; `value` is errno
    kEnded = 3,      ///< the tool's first process has ended; `value` is its wait status
  };
  uint32_t kind;
  int32_t value;
  uint32_t left_over;  ///< of kEnded: processes that were still there and had to be ended
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_LAUNCH_PROTOCOL_H_
