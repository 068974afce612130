// Client of QEMU's gdbstub: stops the guest, reads its registers, lets it run on.
#ifndef PENUMBRA_NATIVE_HYPERVISOR_GDBSTUB_H_
#define PENUMBRA_NATIVE_HYPERVISOR_GDBSTUB_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "hypervisor/packet_stream.h"
#include "hypervisor/register_layout.h"
#include "hypervisor/registers.h"

namespace penumbra {

/// Speaks with the stub over one end of a socketpair. It never writes to the guest: the packets it sends are
/// `qSupported qXfer:features qfThreadInfo qsThreadInfo Hg g c` and the interrupt byte.
///
/// Every method may throw Error("GUEST_GONE") when QEMU ended or the guest shut down, "TIMEOUT" when
/// `deadline` passed, "STUB" on an answer that does not fit. After an error only Resume and Detach are of use.
class GdbStub {
 public:
  /// Told `true` before anything is sent that stops the guest, `false` after what lets it run on was sent.
  using StandingObserver = std::function<void(bool standing)>;

  /// Takes over `fd`, a connected stream socket whose other end is given to QEMU. QEMU need not listen yet.
  explicit GdbStub(int fd, StandingObserver observer = nullptr);

  /// Learns the vCPUs and the layout of their registers. QEMU stops the guest when it opens the stub, so
  /// afterwards the guest stands still; `found_running` tells what `query-status` said before. May be called
  /// before QEMU's `gdbserver` command: the first packets then wait in the socket and the stop lasts no
  /// longer than the talk.
  void Handshake(bool found_running, Deadline deadline);

  size_t vcpus() const { return threads_.size(); }

  /// Stops the guest and waits until it stands still.
  void Interrupt(Deadline deadline);

  /// The same, but asks for all registers with the same write and does not wait: the fastest way to a vCPU's
  /// state. To be followed by AwaitStop or by ReceiveRegisters.
  void InterruptAndRequestRegisters(Deadline deadline);
  /// Returns once the guest stands still.
  void AwaitStop(Deadline deadline);

  /// True between a stop and Resume if it was this object that stopped the guest; false if somebody else had.
  bool stopped_by_us() const { return state_ == State::kStoppedByUs; }

  /// Asks for the registers of every vCPU with one write. The guest must stand still.
  void RequestRegisters(Deadline deadline);
  /// The answer to the request, in the order of vCPU numbers.
  std::vector<VcpuState> ReceiveRegisters(Deadline deadline);

  /// Lets the guest run on, if it was this object that stopped it; otherwise the guest stays as it was found.
  /// Does not wait for QEMU to do so. Register replies that were not fetched are awaited and dropped. After
  /// an error it sends what gets the guest going whatever was half said before. Takes no deadline: it has to
  /// happen even where the caller's has passed (5 s are the limit).
  void Resume();

  /// Resume, and wait until QEMU has taken the order: a `gdbserver none` on the QMP socket could overtake it.
  /// Throws Error("STUB") after an earlier error: then QMP's `cont` has to make sure.
  void Detach(Deadline deadline);

 private:
  enum class State { kRunning, kStoppedByUs, kStoppedByOthers };

  void Continue(Deadline deadline);
  void Abandon() noexcept;
  void Send(std::string_view bytes, Deadline deadline);
  void Request(std::string_view packets, uint64_t count, Deadline deadline);
  std::string AwaitReply(Deadline deadline);
  std::string NextReply(Deadline deadline);
  std::string NextRegisterReply(Deadline deadline);
  void NoteStop(std::string_view packet);
  void DiscardPending();
  void RefuseForeignRun();
  void LearnRegisters(const std::string& target_description, Deadline deadline);
  std::string ReadFeature(const std::string& annex, size_t offset, Deadline deadline, bool& more);
  void LearnThreads(std::string reply, Deadline deadline);
  void ComposeRegisterRequest();
  void Observe(bool standing) const;
  void SendInterrupt(const std::string& packets, uint64_t count, Deadline deadline);

  PacketStream stream_;
  StandingObserver observer_;
  std::optional<RegisterLayout> layout_;
  std::vector<uint64_t> threads_;  // ascending, so in the order of QEMU's cpu_index
  std::string register_request_;   // the packets that ask for every vCPU's registers
  uint64_t register_packets_ = 0;
  State state_ = State::kRunning;
  uint64_t sent_ = 0;           // packets, each of which QEMU acknowledges
  uint64_t replies_due_ = 0;    // to requests sent and not yet answered
  bool awaiting_stop_ = false;  // an interrupt was sent and its stop is not yet proved
  bool registers_requested_ = false;
  bool broken_ = false;                     // an error left the stream in an unknown place
  bool stop_seen_ = false;                  // a stop reply came since the last interrupt or register request
  std::optional<std::string> first_reply_;  // the reply that proved the stop, until it is looked at
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_HYPERVISOR_GDBSTUB_H_
