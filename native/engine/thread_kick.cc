#include "engine/thread_kick.h"

#include <csignal>

#include "error.h"

namespace penumbra {

namespace {

void DoNothing(int) {}

int TakeSignal() {
  for (int signal = SIGRTMAX; signal >= SIGRTMIN; --signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) != 0) continue;
    if ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL) continue;
    action = {};
    action.sa_handler = DoNothing;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal, &action, nullptr) == 0) return signal;
  }
  throw Error("ENGINE", "every real-time signal of this process is in use");
}

int KickSignal() {
  static const int signal = TakeSignal();
  return signal;
}

}  // namespace

void PrepareThreadKick() { KickSignal(); }

void AcceptThreadKick() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, KickSignal());
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void KickThread(pthread_t thread) { pthread_kill(thread, KickSignal()); }

}  // namespace penumbra
