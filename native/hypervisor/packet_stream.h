// Framing of the gdb remote protocol (gdb manual, "Overview" of the Remote Serial Protocol) over a stream
// socket. It knows packets, not their meaning, and never sends an acknowledgement: QEMU's stub takes the '$'
// of a new packet as the acknowledgement of its former reply (gdbstub.c, gdb_read_byte), and any other byte
// that reaches a running guest stops it.
#ifndef PENUMBRA_NATIVE_HYPERVISOR_PACKET_STREAM_H_
#define PENUMBRA_NATIVE_HYPERVISOR_PACKET_STREAM_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace penumbra {

/// An absolute point of CLOCK_MONOTONIC.
using Deadline = std::chrono::steady_clock::time_point;

class PacketStream {
 public:
  /// Takes over `fd`, a connected stream socket.
  explicit PacketStream(int fd) : fd_(fd) {}
  ~PacketStream();
  PacketStream(const PacketStream&) = delete;
  PacketStream& operator=(const PacketStream&) = delete;

  /// `$payload#checksum`, to be collected into one Send.
  static std::string Frame(std::string_view payload);

  /// Sends all of `bytes`. Throws Error("GUEST_GONE") when the other side is closed, "TIMEOUT" when it does
  /// not read.
  void Send(std::string_view bytes, Deadline deadline);

  /// The next packet's payload with escapes resolved, skipping acknowledgements; waits for it until
  /// `deadline`.
  /// Throws Error("TIMEOUT"), "GUEST_GONE" at end of file, "STUB" on a bad checksum, a '-' or an oversized
  /// packet.
  std::string Receive(Deadline deadline);

  /// A packet that has already arrived, if there is one; never waits.
  std::optional<std::string> ReceivePending();

  /// The number of '+' seen so far: QEMU sends one for each packet that it has taken.
  uint64_t acknowledged() const { return acknowledged_; }
  /// Reads until `acknowledged()` is at least `count`; packets that arrive meanwhile are dropped.
  void AwaitAcknowledged(uint64_t count, Deadline deadline);

 private:
  std::optional<std::string> TakePacket();
  bool Fill();
  void Wait(short events, Deadline deadline) const;

  int fd_;
  std::string received_;
  size_t consumed_ = 0;  // of received_
  uint64_t acknowledged_ = 0;
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_HYPERVISOR_PACKET_STREAM_H_
