#include "hypervisor/packet_stream.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "error.h"

namespace penumbra {

namespace {

// QEMU's packets hold at most 4096 bytes (MAX_PACKET_LENGTH), doubled by escapes; several may be in flight.
constexpr size_t kLargestPacket = 64 * 1024;

constexpr char kHexDigits[] = "0123456789abcdef";

uint8_t Checksum(std::string_view payload) {
  uint8_t sum = 0;
  for (const char c : payload) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(c));
  return sum;
}

// '}' announces a byte sent exclusive-or 0x20.
std::string Unescape(std::string_view payload) {
  std::string result;
  result.reserve(payload.size());
  for (size_t i = 0; i < payload.size(); i++) {
    const bool escaped = payload[i] == '}' && i + 1 < payload.size();
    result += escaped ? static_cast<char>(payload[++i] ^ 0x20) : payload[i];
  }
  return result;
}

Error Gone() {
  return Error("GUEST_GONE", "QEMU closed the gdbstub's connection (it ended, or switched the stub off)");
}

}  // namespace

PacketStream::~PacketStream() { close(fd_); }

std::string PacketStream::Frame(std::string_view payload) {
  const uint8_t sum = Checksum(payload);
  std::string frame = "$";
  frame += payload;
  frame += '#';
  frame += kHexDigits[sum >> 4];
  frame += kHexDigits[sum & 15];
  return frame;
}

void PacketStream::Send(std::string_view bytes, Deadline deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      Wait(POLLOUT, deadline);
    } else if (errno == EPIPE || errno == ECONNRESET) {
      throw Gone();
    } else if (errno != EINTR) {
      throw SystemError("STUB", "cannot write to the gdbstub");
    }
  }
}

std::string PacketStream::Receive(Deadline deadline) {
  for (;;) {
    if (auto packet = TakePacket()) return *std::move(packet);
    if (!Fill()) Wait(POLLIN, deadline);
  }
}

std::optional<std::string> PacketStream::ReceivePending() {
  for (;;) {
    if (auto packet = TakePacket()) return packet;
    if (!Fill()) return std::nullopt;
  }
}

void PacketStream::AwaitAcknowledged(uint64_t count, Deadline deadline) {
  for (;;) {
    while (TakePacket()) {
    }
    if (acknowledged_ >= count) return;
    if (!Fill()) Wait(POLLIN, deadline);
  }
}

// A complete packet at the head of what was received, acknowledgements before it counted.
std::optional<std::string> PacketStream::TakePacket() {
  while (consumed_ < received_.size() && received_[consumed_] != '$') {
    const char c = received_[consumed_++];
    if (c == '+') acknowledged_++;
    if (c == '-') throw Error("STUB", "the gdbstub refused a packet as garbled");
  }
  const size_t hash = received_.find('#', consumed_);
  if (hash == std::string::npos || hash + 2 >= received_.size()) {
    if (received_.size() - consumed_ > kLargestPacket) {
      throw Error("STUB", "the gdbstub sends a packet without end");
    }
    received_.erase(0, consumed_);
    consumed_ = 0;
    return std::nullopt;
  }
  const std::string_view payload = std::string_view(received_).substr(consumed_ + 1, hash - consumed_ - 1);
  const uint8_t sum = Checksum(payload);
  if (received_[hash + 1] != kHexDigits[sum >> 4] || received_[hash + 2] != kHexDigits[sum & 15]) {
    throw Error("STUB", "a packet of the gdbstub has a wrong checksum");
  }
  consumed_ = hash + 3;
  return Unescape(payload);
}

// Reads what is there; false when nothing is.
bool PacketStream::Fill() {
  std::array<char, 16384> chunk;
  for (;;) {
    const ssize_t got = recv(fd_, chunk.data(), chunk.size(), MSG_DONTWAIT);
    if (got > 0) {
      received_.append(chunk.data(), static_cast<size_t>(got));
      return true;
    }
    if (got == 0 || errno == ECONNRESET) throw Gone();
    if (errno == EAGAIN) return false;
    if (errno != EINTR) throw SystemError("STUB", "cannot read from the gdbstub");
  }
}

void PacketStream::Wait(short events, Deadline deadline) const {
  using std::chrono::nanoseconds;
  const auto left = std::chrono::duration_cast<nanoseconds>(deadline - std::chrono::steady_clock::now());
  if (left.count() <= 0) throw Error("TIMEOUT", "the gdbstub did not answer in time");
  const timespec timeout{left.count() / 1000000000, left.count() % 1000000000};
  pollfd poll{fd_, events, 0};
  if (ppoll(&poll, 1, &timeout, nullptr) < 0 && errno != EINTR) {
    throw SystemError("STUB", "cannot wait for the gdbstub");
  }
}

}  // namespace penumbra
