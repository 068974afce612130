// Makes a system call of another thread return.
#ifndef PENUMBRA_NATIVE_PROCESS_THREAD_KICK_H_
#define PENUMBRA_NATIVE_PROCESS_THREAD_KICK_H_

#include <pthread.h>

namespace penumbra {

/// What becomes of a system call that the kernel could restart after a signal (signal(7)).
enum class AfterKick {
  kRestart,  ///< it is restarted: only those return that never are, as KVM_RUN
  kReturn,   ///< it returns, with EINTR
};

/// A real-time signal with a handler that does nothing, for the whole process: the highest one that nobody else handles
/// when it is first wanted (neither Node nor V8 uses any). Throws Error ENGINE when all signals are taken.
void PrepareThreadKick(AfterKick kind);

/// Lets this thread be kicked, whatever mask it inherited.
void AcceptThreadKick(AfterKick kind);

/// `thread` must exist and have accepted.
void KickThread(pthread_t thread, AfterKick kind);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_PROCESS_THREAD_KICK_H_
