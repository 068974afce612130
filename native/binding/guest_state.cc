#include "binding/guest_state.h"

#include <string_view>

namespace penumbra {

using Clock = std::chrono::steady_clock;

namespace {

constexpr std::chrono::seconds kLongestEnd{1};

}  // namespace

EnterReport GuestState::Enter(VcpuControl::Stop kind, Clock::time_point deadline) {
  VcpuControl& vcpus_of_guest = RequireGuest();
  Shadow& loaded = RequireShadow();
  stopped_at = Clock::now();
  vcpus_of_guest.BeginStop(kind, deadline);
  vcpus_of_guest.AwaitStop(deadline);
  const Clock::time_point stopped = Clock::now();
  // The registers are on their way: the time of that round trip is used for the private pages.
  loaded.Refresh();
  const Clock::time_point refreshed = Clock::now();
  vcpus = vcpus_of_guest.ReceiveRegisters(deadline);
  const Clock::time_point received = Clock::now();
  Stands();
  const Context& context = loaded.Load(vcpus);
  return {.stop = stopped - stopped_at,
          .refresh = refreshed - stopped,
          .registers = received - refreshed,
          .load = Clock::now() - received,
          .stop_class = context.stop_class,
          .in_kernel = context.in_kernel,
          .runs_on = vcpus_of_guest.runs_on(),
          .vcpu = context.vcpu,
          .private_pages = loaded.private_page_count()};
}

Clock::duration GuestState::Leave() {
  Shadow& left = RequireShadow();
  if (const std::optional<Clock::duration> stood = std::exchange(let_go, std::nullopt)) {
    left.Drop();
    return *stood;
  }
  left.NoteCode();
  // Until it is let go: when this thread has a processor again the guest may have run for a while.
  const Clock::duration standstill = Clock::now() - stopped_at;
  Resume();
  left.Collect();
  return standstill;
}

uint64_t GuestState::LetGo() {
  const uint64_t copied = RequireShadow().CopyMemory();
  RequireShadow().NoteCode();
  const Clock::duration standstill = Clock::now() - stopped_at;
  Resume();
  let_go = standstill;
  return copied;
}

// What was learned of the guest's last instant is none the worse for its end. A gdbstub that somebody switched off
// looks the same from here, but leaves the guest standing.
void GuestState::Resume() {
  Runs();
  try {
    RequireControl().Resume();
  } catch (const Error& error) {
    if (std::string_view(error.code()) != "GUEST_GONE" || !hypervisor->HasEnded(kLongestEnd)) throw;
    gone = error.what();
  }
}

}  // namespace penumbra
