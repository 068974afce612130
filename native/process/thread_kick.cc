#include "process/thread_kick.h"

#include <csignal>

#include "error.h"

namespace penumbra {

namespace {

void DoNothing(int) {}

int TakeSignal(int flags) {
  for (int signal = SIGRTMAX; signal >= SIGRTMIN; --signal) {
    struct sigaction action;
    if (sigaction(signal, nullptr, &action) != 0) continue;
    if ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL) continue;
    action = {};
    action.sa_handler = DoNothing;
    action.sa_flags = flags;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal, &action, nullptr) == 0) return signal;
  }
  throw Error("ENGINE", "every real-time signal of this process is in use");
}

int SignalOf(AfterKick kind) {
  if (kind == AfterKick::kRestart) {
    static const int restarting = TakeSignal(SA_RESTART);
    return restarting;
  }
  static const int returning = TakeSignal(0);
  return returning;
}

}  // namespace

void PrepareThreadKick(AfterKick kind) { SignalOf(kind); }

void AcceptThreadKick(AfterKick kind) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SignalOf(kind));
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void KickThread(pthread_t thread, AfterKick kind) { pthread_kill(thread, SignalOf(kind)); }

}  // namespace penumbra
