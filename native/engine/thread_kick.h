// Makes a system call of another thread return.
#ifndef PENUMBRA_NATIVE_ENGINE_THREAD_KICK_H_
#define PENUMBRA_NATIVE_ENGINE_THREAD_KICK_H_

#include <pthread.h>

namespace penumbra {

/// One real-time signal with a handler that does nothing, for the whole process: the highest one that nobody else
/// handles when the first engine is made (neither Node nor V8 uses any). What is interrupted is restarted by the kernel
/// except where it never is, as KVM_RUN. Throws Error ENGINE when all signals are taken.
void PrepareThreadKick();

/// Lets this thread be kicked, whatever mask it inherited.
void AcceptThreadKick();

/// `thread` must exist and have accepted.
void KickThread(pthread_t thread);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_THREAD_KICK_H_
