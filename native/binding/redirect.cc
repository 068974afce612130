#include "binding/redirect.h"

#include <string>
#include <vector>

#include "binding/environment.h"
#include "binding/recipe.h"

namespace penumbra {

namespace {

template <typename Item, typename Read>
std::vector<Item> ReadList(const Napi::Object& object, const char* name, Read read) {
  const Napi::Array array = object.Get(name).As<Napi::Array>();
  std::vector<Item> items;
  for (uint32_t i = 0; i < array.Length(); ++i) items.push_back(read(array.Get(i)));
  return items;
}

/// Bytes as they are: paths and arguments need not be UTF-8.
std::string Bytes(Napi::Value value) {
  const Napi::Buffer<char> buffer = value.As<Napi::Buffer<char>>();
  return {buffer.Data(), buffer.Length()};
}

uint32_t Small(const Napi::Object& object, const char* name) {
  return static_cast<uint32_t>(ReadWord(object.Get(name), name));
}

}  // namespace

RedirectRequest ReadRedirectRequest(Napi::Object object) {
  RedirectRequest request;
  const Napi::Object policy = object.Get("policy").As<Napi::Object>();
  request.policy.values =
      ReadList<uint64_t>(policy, "values", [](Napi::Value item) { return ReadWord(item, "values"); });
  const Napi::Buffer<uint8_t> calls = policy.Get("calls").As<Napi::Buffer<uint8_t>>();
  request.policy.calls =
      Guarded(object.Env(), [&] { return ReadCallRules(calls.Data(), calls.Length(), request.policy.values.size()); });
  request.policy.local_paths = ReadList<LocalPath>(policy, "localPaths", [](Napi::Value value) {
    const Napi::Object item = value.As<Napi::Object>();
    return LocalPath{Small(item, "kinds"), Small(item, "match"), Small(item, "use"),
                     item.Get("path").ToString().Utf8Value()};
  });
  request.policy.tool_kinds = ReadList<ToolKind>(policy, "toolKinds", [](Napi::Value value) {
    const Napi::Object item = value.As<Napi::Object>();
    return ToolKind{Small(item, "kind"), item.Get("pattern").ToString().Utf8Value()};
  });
  request.policy.read_ahead =
      ReadList<std::string>(policy, "readAhead", [](Napi::Value item) { return item.ToString().Utf8Value(); });
  request.policy.scratch = object.Get("scratch").ToBoolean();
  request.launch.launcher = object.Get("launcher").ToString().Utf8Value();
  request.launch.program = Bytes(object.Get("program"));
  request.launch.arguments = ReadList<std::string>(object, "arguments", Bytes);
  request.launch.environment = ReadList<std::string>(object, "environment", Bytes);
  const std::vector<int> fds =
      ReadList<int>(object, "fds", [](Napi::Value item) { return static_cast<int>(ReadWord(item, "fds")); });
  if (fds.size() != 3) throw Napi::TypeError::New(object.Env(), "fds are three");
  std::copy(fds.begin(), fds.end(), request.launch.standard_fds);
  request.next_file = {ReadWord(object.Get("task"), "task"), ReadWord(object.Get("taskFiles"), "taskFiles"),
                       ReadWord(object.Get("nextFd"), "nextFd")};
  request.budget_ms = object.Get("budgetMs").ToNumber().DoubleValue();
  return request;
}

std::string CommandLine(const LaunchRequest& request) {
  std::string line = request.program;
  for (const std::string& argument : request.arguments) line.append(1, '\0').append(argument);
  return line;
}

Napi::Value ToJavaScript(Napi::Env env, const RunReport& report) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("status", report.status);
  object.Set("ended", report.ended);
  object.Set("leftOver", report.left_over);
  object.Set("notifications", static_cast<double>(report.notifications));
  object.Set("guestCalls", static_cast<double>(report.guest_calls));
  object.Set("guestEntries", static_cast<double>(report.guest_entries));
  object.Set("foreseen", static_cast<double>(report.foreseen));
  object.Set("continued", static_cast<double>(report.continued));
  object.Set("guestMs", report.guest_ms);
  object.Set("handlingMs", report.handling_ms);
  object.Set("totalMs", report.total_ms);
  Napi::Object refused = Napi::Object::New(env);
  for (const auto& [name, count] : report.refused) refused.Set(name, static_cast<double>(count));
  object.Set("refused", refused);
  return object;
}

}  // namespace penumbra
