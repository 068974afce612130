#include "binding/hypervisor.h"

#include <string>
#include <string_view>
#include <vector>

#include "binding/environment.h"
#include "process/unix_socket.h"

namespace penumbra {

namespace {

// (path: Buffer): { fd, pid, uid, gid }
Napi::Value ConnectUnixSocket(const Napi::CallbackInfo& info) {
  const auto path = info[0].As<Napi::Buffer<char>>();
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const UnixConnection connection = ConnectUnix(std::string(path.Data(), path.Length()));
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("fd", connection.fd);
    result.Set("pid", connection.pid);
    result.Set("uid", connection.uid);
    result.Set("gid", connection.gid);
    return result;
  });
}

// (fd: number, bytes: Buffer, fds: number[]): void
Napi::Value SendBytesWithFds(const Napi::CallbackInfo& info) {
  const int fd = info[0].As<Napi::Number>().Int32Value();
  const auto bytes = info[1].As<Napi::Buffer<char>>();
  const auto numbers = info[2].As<Napi::Array>();
  std::vector<int> fds;
  for (uint32_t i = 0; i < numbers.Length(); i++) {
    fds.push_back(numbers.Get(i).As<Napi::Number>().Int32Value());
  }
  Guarded(info.Env(), [&] { SendWithFds(fd, std::string_view(bytes.Data(), bytes.Length()), fds); });
  return info.Env().Undefined();
}

// (): [number, number]
Napi::Value SocketPair(const Napi::CallbackInfo& info) {
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const auto ends = StreamSocketPair();
    Napi::Array result = Napi::Array::New(info.Env(), ends.size());
    for (uint32_t i = 0; i < ends.size(); i++) result.Set(i, ends[i]);
    return result;
  });
}

}  // namespace

void InitHypervisor(Napi::Env env, Napi::Object exports) {
  exports.Set("connectUnix", Napi::Function::New(env, ConnectUnixSocket, "connectUnix"));
  exports.Set("sendWithFds", Napi::Function::New(env, SendBytesWithFds, "sendWithFds"));
  exports.Set("socketPair", Napi::Function::New(env, SocketPair, "socketPair"));
}

}  // namespace penumbra
