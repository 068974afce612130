#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "redirect/handlers.h"
#include "redirect/tool_pieces.h"

namespace penumbra {

/// write, pwrite64, writev, pwritev: a guest's file is only ever written to in the shadow.
Answer HandleWrite(Supervisor& supervisor, ToolCall& call) {
  const int file = supervisor.FileOf(call, call.arguments[0]);
  supervisor.NoteProgress();
  if (file == ToolProcess::kLocal) return Answer::Continue();
  const GuestFile* known = supervisor.files().Find(file);
  if (known == nullptr) return Answer::Error(EBADF);
  // A socket's messages have a way of their own, where it can be seen what they ask.
  if (known->family != 0) return supervisor.Refuse(call, "sending");
  if (!known->writable) return Answer::Error(EBADF);
  if (call.number == SYS_write || call.number == SYS_pwrite64) {
    call.arguments[2] = std::min(call.arguments[2], Supervisor::kMostTransfer);
    return supervisor.AskByRule(call);
  }
  ToolPieces pieces;
  if (const int error = pieces.Read(call.process->memory, call.arguments[1], call.arguments[2])) {
    return Answer::Error(error);
  }
  const WindowPiece buffer = supervisor.Take(pieces.size(Supervisor::kMostTransfer));
  if (buffer.host == nullptr) return Answer::Error(ENOMEM);
  if (!pieces.Gather(call.process->memory, buffer.host, buffer.size)) return Answer::Error(EFAULT);
  const uint32_t number = call.number == SYS_writev ? SYS_write : SYS_pwrite64;
  return Answer::Value(
      supervisor.Ask(number, static_cast<uint64_t>(file), buffer.guest, buffer.size, call.arguments[3]));
}

/// readv, preadv, preadv2
Answer HandleReadPieces(Supervisor& supervisor, ToolCall& call) {
  const int file = supervisor.FileOf(call, call.arguments[0]);
  supervisor.NoteProgress();
  // preadv2 with offset -1 reads where the file stands.
  const bool at_offset = call.number != SYS_readv && static_cast<int64_t>(call.arguments[3]) != -1;
  const bool is_hosts = file == ToolProcess::kLocal || (!at_offset && supervisor.files().IsWhole(file));
  if (is_hosts) return Answer::Continue();
  ToolPieces pieces;
  if (const int error = pieces.Read(call.process->memory, call.arguments[1], call.arguments[2])) {
    return Answer::Error(error);
  }
  const WindowPiece buffer = supervisor.Take(pieces.size(Supervisor::kMostTransfer));
  if (buffer.host == nullptr) return Answer::Error(ENOMEM);
  const int64_t got = supervisor.Ask(at_offset ? SYS_pread64 : SYS_read, static_cast<uint64_t>(file), buffer.guest,
                                     buffer.size, call.arguments[3]);
  if (got <= 0) return Answer::Value(got);
  if (static_cast<uint64_t>(got) > buffer.size) return Answer::Error(EIO);
  const bool given = pieces.Scatter(call.process->memory, buffer.host, static_cast<uint64_t>(got));
  return given ? Answer::Value(got) : Answer::Error(EFAULT);
}

/// fadvise64 and such: nothing is to be prepared in a shadow.
Answer HandleAdvice(Supervisor& supervisor, ToolCall& call) {
  return supervisor.FileOf(call, call.arguments[0]) == ToolProcess::kLocal ? Answer::Continue() : Answer::Value(0);
}

}  // namespace penumbra
