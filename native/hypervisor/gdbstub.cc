#include "hypervisor/gdbstub.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "error.h"

namespace penumbra {

namespace {

constexpr char kInterrupt[] = "\x03";

// While a reply of its own is not acknowledged QEMU ignores the interrupt byte (gdbstub.c, gdb_read_byte).
// That is so unless our `c` came last. It must not be sent without need: it would itself stop the guest, and
// QEMU 8.1 and later send no stop reply then.
constexpr char kAcknowledge[] = "+";

// Ends whatever packet was half sent (twice, for one whose checksum had begun) and acknowledges what was not,
// so that the next packet is understood.
constexpr char kResynchronise[] = "#00#00+";

// Selects the first vCPU: always answered "OK" by a guest that stands still.
constexpr char kFence[] = "Hg0";

constexpr std::chrono::seconds kResumeLimit{5};

constexpr size_t kMostVcpus = 4096;
constexpr size_t kFeatureChunk = 0xffb;  // as gdb asks of a stub with PacketSize=1000
constexpr size_t kLargestFeature = 256 * 1024;

// GDB_SIGNAL_QUIT: RUN_STATE_SHUTDOWN in QEMU's gdb_vm_state_change.
constexpr std::string_view kShutdownSignal = "03";

bool IsStopReply(std::string_view packet) { return packet.starts_with('T') || packet.starts_with('S'); }

bool IsExit(std::string_view packet) { return packet.starts_with('W') || packet.starts_with('X'); }

std::string Hex(uint64_t value) {
  char text[17];
  const auto end = std::to_chars(text, text + sizeof(text), value, 16).ptr;
  return std::string(text, end);
}

Error Unexpected(const std::string& request, std::string_view reply) {
  const std::string shown(reply.substr(0, 40));
  return Error("STUB", "the gdbstub answers " + request + " with \"" + shown + "\"");
}

std::string FeatureRequest(const std::string& annex, size_t offset) {
  return PacketStream::Frame("qXfer:features:read:" + annex + ":" + Hex(offset) + "," + Hex(kFeatureChunk));
}

// The first file that the target description includes holds the general registers, which `g` sends first.
std::string FirstInclude(const std::string& description) {
  constexpr std::string_view kKey = "xi:include href=\"";
  const size_t at = description.find(kKey);
  if (at == std::string::npos) throw Error("STUB", "the target description includes no register file");
  const size_t start = at + kKey.size();
  const size_t end = description.find('"', start);
  if (end == std::string::npos) throw Error("STUB", "the target description is cut off");
  return description.substr(start, end - start);
}

}  // namespace

GdbStub::GdbStub(int fd, StandingObserver observer) : stream_(fd), observer_(std::move(observer)) {}

void GdbStub::Handshake(bool found_running, Deadline deadline) {
  Observe(true);
  state_ = found_running ? State::kStoppedByUs : State::kStoppedByOthers;
  Request(PacketStream::Frame("qSupported:xmlRegisters=i386") + PacketStream::Frame("qfThreadInfo") +
              FeatureRequest("target.xml", 0),
          3, deadline);
  const std::string supported = AwaitReply(deadline);
  if (supported.find("qXfer:features:read+") == std::string::npos) {
    throw Error("STUB", "the gdbstub does not describe its registers (no qXfer:features:read)");
  }
  std::string threads = AwaitReply(deadline);
  const std::string description = AwaitReply(deadline);
  if (description.empty() || description[0] != 'l') {
    throw Unexpected("the request for target.xml", description);
  }
  LearnThreads(std::move(threads), deadline);
  LearnRegisters(description, deadline);
}

void GdbStub::Interrupt(Deadline deadline) {
  SendInterrupt(PacketStream::Frame(kFence), 1, deadline);
  AwaitStop(deadline);
  if (const std::string reply = NextReply(deadline); reply != "OK") {
    throw Unexpected(kFence, reply);
  }
}

void GdbStub::InterruptAndRequestRegisters(Deadline deadline) {
  SendInterrupt(register_request_, register_packets_, deadline);
  registers_requested_ = true;
}

void GdbStub::AwaitStop(Deadline deadline) {
  if (!awaiting_stop_) return;
  first_reply_ = AwaitReply(deadline);
  awaiting_stop_ = false;
  // No stop reply since the interrupt: it stood still already.
  if (stop_seen_) state_ = State::kStoppedByUs;
  if (state_ == State::kRunning) state_ = State::kStoppedByOthers;
  if (state_ == State::kStoppedByOthers) Observe(false);
  stop_seen_ = false;
}

void GdbStub::RequestRegisters(Deadline deadline) {
  if (registers_requested_) return;
  stop_seen_ = false;
  DiscardPending();
  RefuseForeignRun();
  Request(register_request_, register_packets_, deadline);
  registers_requested_ = true;
}

std::vector<VcpuState> GdbStub::ReceiveRegisters(Deadline deadline) {
  if (!registers_requested_) throw Error("INTERNAL", "registers received without a request");
  AwaitStop(deadline);
  std::vector<VcpuState> states;
  states.reserve(threads_.size());
  for (size_t vcpu = 0; vcpu < threads_.size(); vcpu++) {
    if (threads_.size() > 1) {
      if (const std::string selected = NextRegisterReply(deadline); selected != "OK") {
        throw Unexpected("the selection of vCPU " + std::to_string(vcpu), selected);
      }
    }
    const std::string registers = NextRegisterReply(deadline);
    if (registers.empty() || registers[0] == 'E') throw Unexpected("the request for registers", registers);
    states.push_back(layout_->Decode(registers));
  }
  registers_requested_ = false;
  return states;
}

void GdbStub::Resume() {
  if (broken_) {
    Abandon();
    return;
  }
  try {
    Continue(std::chrono::steady_clock::now() + kResumeLimit);
  } catch (const Error&) {
    Abandon();
    throw;
  }
}

void GdbStub::Continue(Deadline deadline) {
  AwaitStop(deadline);
  while (replies_due_ > 0) AwaitReply(deadline);
  first_reply_.reset();
  registers_requested_ = false;
  if (state_ == State::kStoppedByUs) {
    Send(PacketStream::Frame("c"), deadline);
    sent_++;
    state_ = State::kRunning;
  }
  Observe(false);
}

void GdbStub::Detach(Deadline deadline) {
  Resume();
  if (broken_) {
    throw Error("STUB", "the talk with the gdbstub broke off; the guest's run state is not known to it");
  }
  stream_.AwaitAcknowledged(sent_, deadline);
}

// The guest may stand still because of us: it is told to run on, and the observer is left in the belief that
// it stands.
void GdbStub::Abandon() noexcept {
  if (state_ == State::kStoppedByOthers) return;
  try {
    stream_.Send(kResynchronise + PacketStream::Frame("c"), std::chrono::steady_clock::now() + kResumeLimit);
  } catch (const Error&) {
    // Then QEMU is gone, or does not read: the caller still has QMP's `cont`, and the watchdog.
  }
}

void GdbStub::Request(std::string_view packets, uint64_t count, Deadline deadline) {
  Send(packets, deadline);
  sent_ += count;
  replies_due_ += count;
}

// After a failure here what comes next on the stream is not known.
void GdbStub::Send(std::string_view bytes, Deadline deadline) {
  if (broken_) throw Error("STUB", "the talk with the gdbstub broke off before");
  broken_ = true;
  stream_.Send(bytes, deadline);
  broken_ = false;
}

// The reply that proved the stop, where nobody looked at it yet, otherwise what AwaitReply gives.
std::string GdbStub::NextReply(Deadline deadline) {
  if (auto proof = std::exchange(first_reply_, std::nullopt)) return *std::move(proof);
  return AwaitReply(deadline);
}

std::string GdbStub::NextRegisterReply(Deadline deadline) {
  std::string reply = NextReply(deadline);
  RefuseForeignRun();
  return reply;
}

// A stop reply while the guest stands still: it ran in between. And a running guest takes the first byte of a
// packet for an order to stop, so that what comes next on the stream is not known either.
void GdbStub::RefuseForeignRun() {
  if (!stop_seen_) return;
  broken_ = true;
  throw Error("STUB", "somebody else let the guest run while penumbra looked into it");
}

// The next packet that is not a stop reply.
std::string GdbStub::AwaitReply(Deadline deadline) {
  broken_ = true;
  for (;;) {
    std::string packet = stream_.Receive(deadline);
    if (IsStopReply(packet) || IsExit(packet)) {
      NoteStop(packet);
    } else if (replies_due_ == 0) {
      throw Unexpected("nothing", packet);
    } else {
      replies_due_--;
      broken_ = false;
      return packet;
    }
  }
}

void GdbStub::NoteStop(std::string_view packet) {
  if (IsExit(packet)) throw Error("GUEST_GONE", "QEMU ended");
  if (packet.substr(1, 2) == kShutdownSignal) throw Error("GUEST_GONE", "the guest shut down");
  stop_seen_ = true;
}

// Stop replies of stops that were not ours.
void GdbStub::DiscardPending() {
  while (const auto packet = stream_.ReceivePending()) {
    if (!IsStopReply(*packet) && !IsExit(*packet)) throw Unexpected("nothing", *packet);
    NoteStop(*packet);
    if (state_ == State::kRunning) state_ = State::kStoppedByOthers;
  }
}

void GdbStub::LearnThreads(std::string reply, Deadline deadline) {
  threads_.clear();
  while (!reply.empty() && reply[0] == 'm') {
    const char* at = reply.data();
    const char* const end = at + reply.size();
    while (at < end) {
      uint64_t id = 0;
      const auto parsed = std::from_chars(at + 1, end, id, 16);
      if (parsed.ec != std::errc() || threads_.size() >= kMostVcpus) {
        throw Unexpected("the request for vCPUs", reply);
      }
      threads_.push_back(id);
      at = parsed.ptr;
    }
    Request(PacketStream::Frame("qsThreadInfo"), 1, deadline);
    reply = AwaitReply(deadline);
  }
  if (reply != "l" || threads_.empty()) throw Unexpected("the request for vCPUs", reply);
  std::sort(threads_.begin(), threads_.end());
  ComposeRegisterRequest();
}

void GdbStub::LearnRegisters(const std::string& target_description, Deadline deadline) {
  const std::string annex = FirstInclude(target_description);
  std::string description;
  bool more = true;
  do {
    description += ReadFeature(annex, description.size(), deadline, more);
    layout_.emplace(description);
  } while (more && !layout_->complete() && description.size() < kLargestFeature);
  if (!layout_->complete()) {
    throw Error("STUB", "the gdbstub does not know the registers " + layout_->missing() +
                            "; penumbra needs the gdbstub of qemu-system-x86_64");
  }
}

std::string GdbStub::ReadFeature(const std::string& annex, size_t offset, Deadline deadline, bool& more) {
  Request(FeatureRequest(annex, offset), 1, deadline);
  const std::string reply = AwaitReply(deadline);
  if (reply.empty() || (reply[0] != 'm' && reply[0] != 'l')) {
    throw Unexpected("the request for " + annex, reply);
  }
  more = reply[0] == 'm' && reply.size() > 1;
  return reply.substr(1);
}

// An only vCPU is always the selected one; a packet less is a wake-up less on both sides.
void GdbStub::ComposeRegisterRequest() {
  register_request_.clear();
  for (const uint64_t thread : threads_) {
    if (threads_.size() > 1) register_request_ += PacketStream::Frame("Hg" + Hex(thread));
    register_request_ += PacketStream::Frame("g");
  }
  register_packets_ = threads_.size() > 1 ? threads_.size() * 2 : 1;
}

void GdbStub::Observe(bool standing) const {
  if (observer_) observer_(standing);
}

void GdbStub::SendInterrupt(const std::string& packets, uint64_t count, Deadline deadline) {
  DiscardPending();
  stop_seen_ = false;
  awaiting_stop_ = true;
  Observe(true);
  const std::string acknowledge = state_ == State::kRunning ? "" : kAcknowledge;
  Request(acknowledge + kInterrupt + packets, count, deadline);
}

}  // namespace penumbra
