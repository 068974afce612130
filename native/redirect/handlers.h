// Calls that need more than their arguments' rules. Each takes the call of its name in the policy.
#ifndef PENUMBRA_NATIVE_REDIRECT_HANDLERS_H_
#define PENUMBRA_NATIVE_REDIRECT_HANDLERS_H_

#include "redirect/supervisor.h"

namespace penumbra {

// handle_files.cc
Answer HandleOpen(Supervisor& supervisor, ToolCall& call);
Answer HandleOpenAt(Supervisor& supervisor, ToolCall& call);
Answer HandleOpenAt2(Supervisor& supervisor, ToolCall& call);
Answer HandleCreate(Supervisor& supervisor, ToolCall& call);
Answer HandleReadLink(Supervisor& supervisor, ToolCall& call);
Answer HandleChangeFolder(Supervisor& supervisor, ToolCall& call);
Answer HandleMap(Supervisor& supervisor, ToolCall& call);

// handle_descriptors.cc
Answer HandleControlFile(Supervisor& supervisor, ToolCall& call);
Answer HandleControlDevice(Supervisor& supervisor, ToolCall& call);

// handle_processes.cc
Answer HandleExecute(Supervisor& supervisor, ToolCall& call);
Answer HandleClone(Supervisor& supervisor, ToolCall& call);
Answer HandleKill(Supervisor& supervisor, ToolCall& call);
Answer HandleThreadId(Supervisor& supervisor, ToolCall& call);
Answer HandleProcessControl(Supervisor& supervisor, ToolCall& call);
Answer HandleLimits(Supervisor& supervisor, ToolCall& call);

// handle_signals.cc
Answer HandleSignalAction(Supervisor& supervisor, ToolCall& call);
Answer HandleSignalReturn(Supervisor& supervisor, ToolCall& call);

// handle_transfers.cc
Answer HandleWrite(Supervisor& supervisor, ToolCall& call);
Answer HandleReadPieces(Supervisor& supervisor, ToolCall& call);
Answer HandleAdvice(Supervisor& supervisor, ToolCall& call);

// handle_copies.cc
Answer HandleCopy(Supervisor& supervisor, ToolCall& call);

// handle_sockets.cc
Answer HandleSocket(Supervisor& supervisor, ToolCall& call);
Answer HandleSocketPair(Supervisor& supervisor, ToolCall& call);
Answer HandleConnect(Supervisor& supervisor, ToolCall& call);
Answer HandleSend(Supervisor& supervisor, ToolCall& call);
Answer HandleReceive(Supervisor& supervisor, ToolCall& call);
Answer HandleSendMessage(Supervisor& supervisor, ToolCall& call);
Answer HandleReceiveMessage(Supervisor& supervisor, ToolCall& call);

// handle_waiting.cc
Answer HandlePoll(Supervisor& supervisor, ToolCall& call);
Answer HandleSelect(Supervisor& supervisor, ToolCall& call);
Answer HandleSleep(Supervisor& supervisor, ToolCall& call);
Answer HandleClock(Supervisor& supervisor, ToolCall& call);
Answer HandleTime(Supervisor& supervisor, ToolCall& call);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_HANDLERS_H_
