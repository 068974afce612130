#include "redirect/handlers.h"

#include <cstring>

namespace penumbra {

namespace {

struct Entry {
  const char* name;
  Handler handler;
};

constexpr Entry kHandlers[] = {
    {"open", HandleOpen},
    {"openat", HandleOpenAt},
    {"openat2", HandleOpenAt2},
    {"create", HandleCreate},
    {"readlink", HandleReadLink},
    {"change-folder", HandleChangeFolder},
    {"map", HandleMap},
    {"control-file", HandleControlFile},
    {"control-device", HandleControlDevice},
    {"execute", HandleExecute},
    {"clone", HandleClone},
    {"signal-action", HandleSignalAction},
    {"signal-return", HandleSignalReturn},
    {"kill", HandleKill},
    {"thread-id", HandleThreadId},
    {"process-control", HandleProcessControl},
    {"limits", HandleLimits},
    {"write", HandleWrite},
    {"read-pieces", HandleReadPieces},
    {"copy", HandleCopy},
    {"advice", HandleAdvice},
    {"socket", HandleSocket},
    {"socket-pair", HandleSocketPair},
    {"connect", HandleConnect},
    {"send", HandleSend},
    {"receive", HandleReceive},
    {"send-message", HandleSendMessage},
    {"receive-message", HandleReceiveMessage},
    {"poll", HandlePoll},
    {"select", HandleSelect},
    {"sleep", HandleSleep},
    {"clock", HandleClock},
    {"time", HandleTime},
};

}  // namespace

Handler FindHandler(const char* name) {
  for (const Entry& entry : kHandlers) {
    if (std::strcmp(entry.name, name) == 0) return entry.handler;
  }
  return nullptr;
}

}  // namespace penumbra
