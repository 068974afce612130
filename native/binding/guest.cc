#include "binding/guest.h"

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding/environment.h"
#include "binding/guest_thread.h"
#include "binding/process.h"
#include "binding/recipe.h"
#include "binding/redirect.h"
#include "error.h"
#include "hypervisor/gdbstub.h"
#include "memory/guest_ram.h"
#include "memory/page_walk.h"
#include "memory/scan.h"
#include "shadow/shadow.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kMaxRead = 256 << 20;
constexpr size_t kMaxExtents = 65536;

double Nanoseconds(Clock::duration duration) {
  return static_cast<double>(std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

// Everything of one guest that the guest's thread works on. Jobs share it, so that it outlives the JavaScript object.
struct GuestState {
  explicit GuestState(std::shared_ptr<const GuestRam> guest_ram) : ram(std::move(guest_ram)) {}

  std::shared_ptr<const GuestRam> ram;
  std::unique_ptr<GdbStub> stub;
  std::unique_ptr<Shadow> shadow;
  std::vector<VcpuState> vcpus;  ///< as of the last stop
  Clock::time_point stopped_at;
  std::optional<std::string> gone;  ///< why the guest is no longer the one that was attached to

  std::optional<double> let_go;  ///< ns after which the guest ran on although its shadow is still in use

  /// Copies what the guest may change and lets it run on; returns the bytes copied.
  uint64_t LetGo() {
    const uint64_t copied = RequireShadow().CopyMemory();
    RequireShadow().NoteCode();
    RequireStub().Resume();
    let_go = Nanoseconds(Clock::now() - stopped_at);
    return copied;
  }

  GdbStub& RequireStub() {
    if (!stub) throw Error("INTERNAL", "no gdbstub is connected");
    return *stub;
  }
  /// For what begins a look at the guest; what ends one must work to the last.
  GdbStub& RequireGuest() {
    if (gone) throw Error("GUEST_GONE", *gone);
    return RequireStub();
  }
  Shadow& RequireShadow() {
    if (!shadow) throw Error("INTERNAL", "no shadow was made");
    return *shadow;
  }
};

Clock::time_point After(double milliseconds) {
  return Clock::now() + std::chrono::microseconds(static_cast<int64_t>(milliseconds * 1000));
}

Napi::Value ToJavaScript(Napi::Env env, const std::vector<VcpuState>& vcpus) {
  Napi::Array array = Napi::Array::New(env, vcpus.size());
  const auto word = [env](uint64_t value) { return Napi::BigInt::New(env, value); };
  for (size_t i = 0; i < vcpus.size(); ++i) {
    const VcpuState& state = vcpus[i];
    Napi::Object object = Napi::Object::New(env);
    Napi::BigUint64Array gpr = Napi::BigUint64Array::New(env, 16);
    std::memcpy(gpr.Data(), state.gpr, sizeof state.gpr);
    object.Set("index", static_cast<double>(i));
    object.Set("gpr", gpr);
    object.Set("rip", word(state.rip));
    object.Set("rflags", state.rflags);
    object.Set("cs", state.cs);
    object.Set("ss", state.ss);
    object.Set("fsBase", word(state.fs_base));
    object.Set("gsBase", word(state.gs_base));
    object.Set("kernelGsBase", word(state.kernel_gs_base));
    object.Set("cr0", word(state.cr0));
    object.Set("cr2", word(state.cr2));
    object.Set("cr3", word(state.cr3));
    object.Set("cr4", word(state.cr4));
    object.Set("cr8", word(state.cr8));
    object.Set("efer", word(state.efer));
    array.Set(static_cast<uint32_t>(i), object);
  }
  return array;
}

Napi::Value ToJavaScript(Napi::Env env, BatchResult&& result) {
  Napi::Object object = Napi::Object::New(env);
  Napi::BigInt64Array values = Napi::BigInt64Array::New(env, result.values.size());
  if (!result.values.empty()) std::memcpy(values.Data(), result.values.data(), result.values.size() * 8);
  Napi::Uint32Array outs = Napi::Uint32Array::New(env, result.outs.size() * 4);
  static_assert(sizeof(OutRecord) == 16);
  if (!result.outs.empty()) std::memcpy(outs.Data(), result.outs.data(), result.outs.size() * sizeof(OutRecord));
  Napi::Uint32Array blocked = Napi::Uint32Array::New(env, result.blocked.size());
  std::copy(result.blocked.begin(), result.blocked.end(), blocked.Data());
  object.Set("values", values);
  object.Set("blocked", blocked);
  object.Set("outs", outs);
  object.Set("bytes", Napi::Buffer<uint8_t>::Copy(env, result.bytes.data(), result.bytes.size()));
  if (result.failure) {
    Napi::Object failure = Napi::Object::New(env);
    failure.Set("code", result.failure->code);
    failure.Set("message", result.failure->message);
    failure.Set("address", Napi::BigInt::New(env, result.failure->address));
    Napi::BigUint64Array callers = Napi::BigUint64Array::New(env, result.failure->callers.size());
    std::copy(result.failure->callers.begin(), result.failure->callers.end(), callers.Data());
    failure.Set("callers", callers);
    object.Set("failure", failure);
  }
  return object;
}

class Guest final : public Napi::ObjectWrap<Guest> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Guest",
                       {
                           InstanceMethod<&Guest::Read>("read"),
                           InstanceMethod<&Guest::Find>("find"),
                           InstanceMethod<&Guest::TranslateAddress>("translate"),
                           InstanceMethod<&Guest::ReadThrough>("readVirtual"),
                           InstanceMethod<&Guest::Extents>("extents"),
                           InstanceMethod<&Guest::ConnectStub>("connectStub"),
                           InstanceMethod<&Guest::DetachStub>("detachStub"),
                           InstanceMethod<&Guest::Stop>("stop"),
                           InstanceMethod<&Guest::Resume>("resume"),
                           InstanceMethod<&Guest::MeasureStop>("measureStop"),
                           InstanceMethod<&Guest::CreateShadow>("createShadow"),
                           InstanceMethod<&Guest::Borrow>("borrow"),
                           InstanceMethod<&Guest::SetOptions>("setOptions"),
                           InstanceMethod<&Guest::Enter>("enter"),
                           InstanceMethod<&Guest::Run>("run"),
                           InstanceMethod<&Guest::Redirect>("redirect"),
                           InstanceMethod<&Guest::InterruptRedirect>("interruptRedirect"),
                           InstanceMethod<&Guest::ReadShadow>("readShadow"),
                           InstanceMethod<&Guest::Leave>("leave"),
                           InstanceMethod<&Guest::BeginRehearsal>("beginRehearsal"),
                           InstanceMethod<&Guest::EndRehearsal>("endRehearsal"),
                           InstanceMethod<&Guest::Statistics>("statistics"),
                           InstanceMethod<&Guest::SetGone>("setGone"),
                           InstanceMethod<&Guest::Close>("close"),
                       });
  }

  explicit Guest(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Guest>(info), thread_(info.Env()) {
    const Napi::Array regions = info[0].As<Napi::Array>();
    std::vector<RamDescriptor> descriptors;
    for (uint32_t i = 0; i < regions.Length(); ++i) {
      const Napi::Object region = regions.Get(i).As<Napi::Object>();
      descriptors.push_back({ReadWord(region.Get("gpa"), "gpa"), ReadWord(region.Get("size"), "size"),
                             static_cast<int>(ReadWord(region.Get("fd"), "fd")),
                             ReadWord(region.Get("offset"), "offset")});
    }
    ram_ = Guarded(info.Env(), [&] { return std::make_shared<const GuestRam>(std::move(descriptors)); });
    state_ = std::make_shared<GuestState>(ram_);
  }

 private:
  // --- Reads of live memory: no job, because the mappings never change and nothing here waits.

  Napi::Value Read(const Napi::CallbackInfo& info) {
    const uint64_t gpa = ReadWord(info[0], "gpa");
    const uint32_t length = ReadLength(info[1]);
    return Guarded(info.Env(), [&]() -> Napi::Value {
      Napi::Buffer<uint8_t> out = Napi::Buffer<uint8_t>::New(info.Env(), length);
      Ram(info).Read(gpa, out.Data(), length);
      return out;
    });
  }

  Napi::Value Find(const Napi::CallbackInfo& info) {
    const Napi::Buffer<uint8_t> needle = info[0].As<Napi::Buffer<uint8_t>>();
    const std::vector<uint64_t> hits =
        FindBytes(Ram(info).table(), needle.Data(), needle.Length(), ReadWord(info[1], "from"),
                  ReadWord(info[2], "to"), ReadLength(info[3]));
    Napi::Array array = Napi::Array::New(info.Env(), hits.size());
    for (uint32_t i = 0; i < hits.size(); ++i) array.Set(i, Napi::BigInt::New(info.Env(), hits[i]));
    return array;
  }

  Napi::Value TranslateAddress(const Napi::CallbackInfo& info) {
    const Translation translation = Translate(Ram(info).table(), ReadSpace(info), ReadWord(info[2], "address"));
    if (!translation.mapped()) return info.Env().Undefined();
    return Napi::BigInt::New(info.Env(), translation.gpa);
  }

  /// Returns the bytes before the first one that is not mapped.
  Napi::Value ReadThrough(const Napi::CallbackInfo& info) {
    const uint32_t length = ReadLength(info[3]);
    std::unique_ptr<uint8_t[]> bytes(new uint8_t[length]);
    const uint64_t got =
        ReadVirtual(Ram(info).table(), ReadSpace(info), ReadWord(info[2], "address"), bytes.get(), length);
    return Napi::Buffer<uint8_t>::Copy(info.Env(), bytes.get(), got);
  }

  Napi::Value Extents(const Napi::CallbackInfo& info) {
    const std::vector<Extent> extents = FindExtents(Ram(info).table(), ReadSpace(info), ReadWord(info[2], "from"),
                                                    ReadWord(info[3], "to"), kMaxExtents);
    Napi::BigUint64Array array = Napi::BigUint64Array::New(info.Env(), extents.size() * 3);
    static_assert(sizeof(Extent) == 24);
    if (!extents.empty()) std::memcpy(array.Data(), extents.data(), extents.size() * sizeof(Extent));
    return array;
  }

  // --- Jobs of the guest's thread.

  template <typename Body>
  Napi::Value Post(const Napi::CallbackInfo& info, Body body) {
    return thread_.Post(info.Env(), [state = state_, body = std::move(body)]() mutable { return body(*state); });
  }

  Napi::Value ConnectStub(const Napi::CallbackInfo& info) {
    const int fd = info[0].As<Napi::Number>().Int32Value();
    const std::shared_ptr<Watchdog> watchdog = WatchdogOf(info[1]);
    const bool found_running = info[2].ToBoolean();
    const double limit = info[3].As<Napi::Number>().DoubleValue();
    return Post(info, [fd, watchdog, found_running, limit](GuestState& state) -> GuestThread::Reply {
      state.stub = std::make_unique<GdbStub>(fd, [watchdog](bool standing) {
        watchdog->SetPhase(standing ? WatchdogPhase::kStanding : WatchdogPhase::kRunning);
      });
      const Clock::time_point deadline = After(limit);
      state.stub->Handshake(found_running, deadline);
      state.stub->RequestRegisters(deadline);
      state.vcpus = state.stub->ReceiveRegisters(deadline);
      state.stub->Resume();
      return [vcpus = state.vcpus](Napi::Env env) { return ToJavaScript(env, vcpus); };
    });
  }

  Napi::Value DetachStub(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    return Post(info, [limit](GuestState& state) -> GuestThread::Reply {
      const std::unique_ptr<GdbStub> stub = std::exchange(state.stub, nullptr);
      if (stub) stub->Detach(After(limit));
      return nullptr;
    });
  }

  Napi::Value Stop(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    return Post(info, [limit](GuestState& state) -> GuestThread::Reply {
      GdbStub& stub = state.RequireGuest();
      const Clock::time_point deadline = After(limit);
      stub.InterruptAndRequestRegisters(deadline);
      state.vcpus = stub.ReceiveRegisters(deadline);
      state.stopped_at = Clock::now();
      return [vcpus = state.vcpus](Napi::Env env) { return ToJavaScript(env, vcpus); };
    });
  }

  Napi::Value Resume(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      state.RequireStub().Resume();
      return nullptr;
    });
  }

  /// Stops, reads the registers and resumes, and gives the nanoseconds of each.
  Napi::Value MeasureStop(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    return Post(info, [limit](GuestState& state) -> GuestThread::Reply {
      GdbStub& stub = state.RequireGuest();
      const Clock::time_point deadline = After(limit);
      const Clock::time_point begin = Clock::now();
      stub.InterruptAndRequestRegisters(deadline);
      stub.AwaitStop(deadline);
      const Clock::time_point stopped = Clock::now();
      state.vcpus = stub.ReceiveRegisters(deadline);
      const Clock::time_point received = Clock::now();
      stub.Resume();
      const Clock::time_point resumed = Clock::now();
      return [=](Napi::Env env) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("stopNs", Nanoseconds(stopped - begin));
        object.Set("registersNs", Nanoseconds(received - stopped));
        object.Set("resumeNs", Nanoseconds(resumed - received));
        return object;
      };
    });
  }

  Napi::Value CreateShadow(const Napi::CallbackInfo& info) {
    Recipe recipe = ReadRecipe(info[0].As<Napi::Object>());
    const uint64_t scratch = ReadWord(info[1], "scratch");
    const EngineChoice engine = ReadEngineChoice(info[2].As<Napi::Object>());
    return Post(info, [recipe = std::move(recipe), scratch, engine](GuestState& state) mutable -> GuestThread::Reply {
      state.shadow = std::make_unique<Shadow>(*state.ram, std::move(recipe), scratch, engine);
      return nullptr;
    });
  }

  Napi::Value Borrow(const Napi::CallbackInfo& info) {
    const uint64_t task = ReadWord(info[0], "task");
    const uint32_t pid = info[1].As<Napi::Number>().Uint32Value();
    return Post(info, [task, pid](GuestState& state) -> GuestThread::Reply {
      state.RequireShadow().Borrow(task, pid);
      return nullptr;
    });
  }

  Napi::Value SetOptions(const Napi::CallbackInfo& info) {
    const Napi::Object object = info[0].As<Napi::Object>();
    ShadowOptions options;
    options.instruction_limit = ReadWord(object.Get("instructionLimit"), "instructionLimit");
    options.time_limit_ns = ReadWord(object.Get("timeLimitNs"), "timeLimitNs");
    options.keep_pages = ReadWord(object.Get("keepPages"), "keepPages");
    return Post(info, [options](GuestState& state) -> GuestThread::Reply {
      state.RequireShadow().set_options(options);
      return nullptr;
    });
  }

  /// Stops the guest and loads the shadow; the guest stands still afterwards, whether or not that succeeded.
  Napi::Value Enter(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    return Post(info, [limit](GuestState& state) -> GuestThread::Reply {
      GdbStub& stub = state.RequireGuest();
      Shadow& shadow = state.RequireShadow();
      const Clock::time_point deadline = After(limit);
      const Clock::time_point begin = Clock::now();
      state.stopped_at = begin;
      stub.InterruptAndRequestRegisters(deadline);
      stub.AwaitStop(deadline);
      const Clock::time_point stopped = Clock::now();
      // The registers are on their way: the time of that round trip is used for the private pages.
      shadow.Refresh();
      const Clock::time_point refreshed = Clock::now();
      state.vcpus = stub.ReceiveRegisters(deadline);
      const Clock::time_point received = Clock::now();
      const Context context = shadow.Load(state.vcpus);
      const Clock::time_point loaded = Clock::now();
      return [=, pages = shadow.private_page_count()](Napi::Env env) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("stopNs", Nanoseconds(stopped - begin));
        object.Set("refreshNs", Nanoseconds(refreshed - stopped));
        object.Set("registersNs", Nanoseconds(received - refreshed));
        object.Set("loadNs", Nanoseconds(loaded - received));
        object.Set("stopClass", static_cast<double>(context.stop_class));
        object.Set("vcpu", context.vcpu);
        object.Set("privatePages", static_cast<double>(pages));
        return object;
      };
    });
  }

  Napi::Value Run(const Napi::CallbackInfo& info) {
    const Napi::Buffer<uint8_t> buffer = info[0].As<Napi::Buffer<uint8_t>>();
    // Copied: JavaScript may change its buffer while the guest's thread reads it.
    auto bytes = std::make_shared<std::vector<uint64_t>>((buffer.Length() + 7) / 8);
    std::memcpy(bytes->data(), buffer.Data(), buffer.Length());
    return Post(info, [bytes, size = buffer.Length()](GuestState& state) -> GuestThread::Reply {
      const Batch batch(reinterpret_cast<const uint8_t*>(bytes->data()), size);
      auto result = std::make_shared<BatchResult>(state.RequireShadow().Run(batch));
      return [result](Napi::Env env) { return ToJavaScript(env, std::move(*result)); };
    });
  }

  /// Runs a tool against the shadow that was entered. When the budget ran out the guest runs again afterwards.
  Napi::Value Redirect(const Napi::CallbackInfo& info) {
    RedirectRequest request = ReadRedirectRequest(info[0].As<Napi::Object>());
    interrupter_ = std::make_shared<RunInterrupter>();
    return Post(info, [request = std::move(request), interrupter = interrupter_](
                          GuestState& state) mutable -> GuestThread::Reply {
      Shadow& shadow = state.RequireShadow();
      ShadowKernel kernel(&shadow, request.next_file, GuestFiles::kFirst);
      Supervisor supervisor(&kernel, std::move(request.policy));
      const Standstill standstill = {request.budget_ms, [&state] { return state.LetGo(); }};
      const RunReport report = supervisor.Run(request.launch, interrupter, standstill);
      return [report](Napi::Env env) { return ToJavaScript(env, report); };
    });
  }

  /// Ends the tool that Redirect runs.
  Napi::Value InterruptRedirect(const Napi::CallbackInfo& info) {
    if (interrupter_) interrupter_->Interrupt();
    return info.Env().Undefined();
  }

  Napi::Value ReadShadow(const Napi::CallbackInfo& info) {
    const uint64_t address = ReadWord(info[0], "address");
    const uint32_t length = ReadLength(info[1]);
    return Post(info, [address, length](GuestState& state) -> GuestThread::Reply {
      auto bytes = std::make_shared<std::vector<uint8_t>>(length);
      bytes->resize(state.RequireShadow().Read(address, bytes->data(), length));
      return [bytes](Napi::Env env) -> Napi::Value {
        return Napi::Buffer<uint8_t>::Copy(env, bytes->data(), bytes->size());
      };
    });
  }

  /// Lets the guest run on, then tidies up. Gives the time for which the guest stood still, in ns.
  Napi::Value Leave(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      Shadow& shadow = state.RequireShadow();
      if (const std::optional<double> stood = std::exchange(state.let_go, std::nullopt)) {
        shadow.Drop();
        return [stood](Napi::Env env) { return Napi::Number::New(env, *stood); };
      }
      shadow.NoteCode();
      state.RequireStub().Resume();
      const double standstill = Nanoseconds(Clock::now() - state.stopped_at);
      shadow.Collect();
      return [standstill](Napi::Env env) { return Napi::Number::New(env, standstill); };
    });
  }

  /// Loads the shadow over the guest as it runs, with the registers of the last stop: what calls answer then means
  /// nothing, but their code gets translated.
  Napi::Value BeginRehearsal(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      Shadow& shadow = state.RequireShadow();
      shadow.Refresh();
      shadow.Load(state.vcpus);
      return nullptr;
    });
  }

  Napi::Value EndRehearsal(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      Shadow& shadow = state.RequireShadow();
      shadow.NoteCode();
      shadow.Collect();
      return nullptr;
    });
  }

  Napi::Value Statistics(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      Shadow& shadow = state.RequireShadow();
      return [calls = shadow.calls(), pages = shadow.private_page_count(),
              engine = std::string(shadow.engine_name())](Napi::Env env) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("engine", engine);
        object.Set("calls", static_cast<double>(calls));
        object.Set("privatePages", static_cast<double>(pages));
        return object;
      };
    });
  }

  Napi::Value SetGone(const Napi::CallbackInfo& info) {
    return Post(info, [reason = std::string(info[0].As<Napi::String>())](GuestState& state) -> GuestThread::Reply {
      state.gone = reason;
      return nullptr;
    });
  }

  /// Gives back the thread, the engine and all mappings; nothing can be asked any more.
  Napi::Value Close(const Napi::CallbackInfo& info) {
    ram_ = nullptr;
    return thread_.Close(info.Env(), [state = state_]() -> GuestThread::Reply {
      state->shadow = nullptr;
      state->stub = nullptr;
      state->ram = nullptr;
      return nullptr;
    });
  }

  const GuestRam& Ram(const Napi::CallbackInfo& info) const {
    if (ram_ == nullptr) {
      throw Napi::Error(info.Env(), ToJavaScript(info.Env(), Error("BAD_ARGUMENT", "the guest is detached")));
    }
    return *ram_;
  }

  static AddressSpace ReadSpace(const Napi::CallbackInfo& info) {
    return {ReadWord(info[0], "root"), static_cast<int>(ReadWord(info[1], "levels"))};
  }

  static uint32_t ReadLength(Napi::Value value) {
    const uint64_t length = ReadWord(value, "length");
    if (length > kMaxRead) throw Napi::RangeError::New(value.Env(), "length is too large");
    return static_cast<uint32_t>(length);
  }

  std::shared_ptr<const GuestRam> ram_;  ///< for JavaScript's thread; until Close
  std::shared_ptr<GuestState> state_;
  std::shared_ptr<RunInterrupter> interrupter_;
  GuestThread thread_;
};

}  // namespace

void InitGuest(Napi::Env env, Napi::Object exports) { exports.Set("Guest", Guest::Define(env)); }

}  // namespace penumbra
