#include "binding/guest.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding/environment.h"
#include "binding/guest_answers.h"
#include "binding/guest_memory.h"
#include "binding/guest_state.h"
#include "binding/guest_thread.h"
#include "binding/process.h"
#include "binding/recipe.h"
#include "binding/redirect.h"
#include "error.h"
#include "hypervisor/vcpu_control.h"
#include "memory/guest_ram.h"
#include "memory/scan.h"
#include "redirect/foresight.h"
#include "redirect/shadow_kernel.h"
#include "shadow/shadow.h"

namespace penumbra {

namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point After(double milliseconds) {
  return Clock::now() + std::chrono::microseconds(static_cast<int64_t>(milliseconds * 1000));
}

class Guest final : public Napi::ObjectWrap<Guest> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Guest",
                       {
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::Read>>("read"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::Find>>("find"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::TranslateAddress>>("translate"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::Walk>>("walk"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::ReadVirtual>>("readVirtual"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::ReadPresent>>("readPresent"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::ReadScattered>>("readScattered"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::LoadWords>>("loadWords"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::Extents>>("extents"),
                           InstanceMethod<&Guest::FindThrough>("findVirtual"),
                           InstanceMethod<&Guest::SetRam>("setRam"),
                           InstanceMethod<&Guest::OfMemory<&GuestMemory::MeasureReads>>("measureReads"),
                           InstanceMethod<&Guest::ConnectStub>("connectStub"),
                           InstanceMethod<&Guest::DetachStub>("detachStub"),
                           InstanceMethod<&Guest::StopWay>("stopWay"),
                           InstanceMethod<&Guest::CompareRegisters>("compareRegisters"),
                           InstanceMethod<&Guest::MeasureStop>("measureStop"),
                           InstanceMethod<&Guest::CreateShadow>("createShadow"),
                           InstanceMethod<&Guest::Borrow>("borrow"),
                           InstanceMethod<&Guest::SetOptions>("setOptions"),
                           InstanceMethod<&Guest::Enter>("enter"),
                           InstanceMethod<&Guest::Run>("run"),
                           InstanceMethod<&Guest::Ask>("ask"),
                           InstanceMethod<&Guest::Redirect>("redirect"),
                           InstanceMethod<&Guest::InterruptRedirect>("interruptRedirect"),
                           InstanceMethod<&Guest::ReadShadow>("readShadow"),
                           InstanceMethod<&Guest::WriteShadow>("writeShadow"),
                           InstanceMethod<&Guest::Leave>("leave"),
                           InstanceMethod<&Guest::BeginRehearsal>("beginRehearsal"),
                           InstanceMethod<&Guest::EndRehearsal>("endRehearsal"),
                           InstanceMethod<&Guest::Statistics>("statistics"),
                           InstanceMethod<&Guest::SetGone>("setGone"),
                           InstanceMethod<&Guest::Close>("close"),
                       });
  }

  explicit Guest(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Guest>(info), thread_(info.Env()) {
    std::shared_ptr<const GuestRam> ram = OpenRam(info);
    state_ = std::make_shared<GuestState>(ram);
    memory_.emplace(std::move(ram), std::shared_ptr<const Episode>(state_, &state_->episode));
  }

 private:
  static std::shared_ptr<const GuestRam> OpenRam(const Napi::CallbackInfo& info) {
    return Guarded(info.Env(), [&] { return std::make_shared<const GuestRam>(ReadRegions(info[0])); });
  }

  template <Napi::Value (GuestMemory::*method)(const Napi::CallbackInfo&)>
  Napi::Value OfMemory(const Napi::CallbackInfo& info) {
    return ((*memory_).*method)(info);
  }

  // --- Jobs of the guest's thread.

  template <typename Body>
  Napi::Value Post(const Napi::CallbackInfo& info, Body body) {
    return thread_.Post(info.Env(), [state = state_, body = std::move(body)]() mutable { return body(*state); });
  }

  /// The guest's RAM is another now; the shadow, which was made of the old one, is gone.
  Napi::Value SetRam(const Napi::CallbackInfo& info) {
    std::shared_ptr<const GuestRam> ram = OpenRam(info);
    memory_->Replace(ram);
    return Post(info, [ram = std::move(ram)](GuestState& state) mutable -> GuestThread::Reply {
      state.shadow = nullptr;
      state.ram = std::move(ram);
      return nullptr;
    });
  }

  Napi::Value FindThrough(const Napi::CallbackInfo& info) {
    const AddressSpace space = ReadSpace(info);
    const Napi::Buffer<uint8_t> bytes = info[2].As<Napi::Buffer<uint8_t>>();
    const std::vector<uint8_t> needle(bytes.Data(), bytes.Data() + bytes.Length());
    const uint64_t from = ReadWord(info[3], "from");
    const uint64_t to = ReadWord(info[4], "to");
    const uint32_t limit = ReadLength(info[5]);
    const uint64_t budget = ReadWord(info[6], "budget");
    return Post(info, [=](GuestState& state) -> GuestThread::Reply {
      state.RequirePresence();
      auto hits = std::make_shared<VirtualHits>(
          FindVirtual(*state.ram, space, needle.data(), needle.size(), from, to, limit, budget));
      // What could not be read was skipped.
      state.ram->RequireReachable();
      return [hits](Napi::Env env) { return ToJavaScript(env, *hits); };
    });
  }

  Napi::Value ConnectStub(const Napi::CallbackInfo& info) {
    const int fd = info[0].As<Napi::Number>().Int32Value();
    const std::shared_ptr<Watchdog> watchdog = WatchdogOf(info[1]);
    const bool found_running = info[2].ToBoolean();
    const double limit = info[3].As<Napi::Number>().DoubleValue();
    std::shared_ptr<VcpuHandles> vcpus = Guarded(info.Env(), [&] { return ReadVcpuHandles(info[4]); });
    const pid_t pid = info[5].As<Napi::Number>().Int32Value();
    return Post(info, [fd, watchdog, found_running, limit, vcpus, pid](GuestState& state) -> GuestThread::Reply {
      state.hypervisor = std::make_unique<const ProcessHandle>(pid);
      state.control = std::make_unique<VcpuControl>(std::make_unique<GdbStub>(fd, [watchdog](bool standing) {
        watchdog->SetPhase(standing ? WatchdogPhase::kStanding : WatchdogPhase::kRunning);
      }));
      if (vcpus) state.control->UsePages(std::move(vcpus->pages), vcpus->threads);
      state.vcpus = state.control->Connect(found_running, After(limit));
      return [states = state.vcpus](Napi::Env env) { return ToJavaScript(env, states); };
    });
  }

  Napi::Value DetachStub(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    return Post(info, [limit](GuestState& state) -> GuestThread::Reply {
      const std::unique_ptr<VcpuControl> control = std::exchange(state.control, nullptr);
      state.hypervisor = nullptr;
      state.Runs();
      if (control) control->Detach(After(limit));
      return nullptr;
    });
  }

  /// How short stops are made: `holds` and, where they are not, why.
  Napi::Value StopWay(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      const VcpuControl& control = state.RequireControl();
      return [holds = control.holds_threads(), refusal = control.refusal()](Napi::Env env) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("holds", holds);
        object.Set("refusal", refusal);
        return object;
      };
    });
  }

  /// Stops the guest once and reads its registers in both ways.
  Napi::Value CompareRegisters(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    return Post(info, [limit](GuestState& state) -> GuestThread::Reply {
      const VcpuControl::Comparison both = state.RequireGuest().Compare(After(limit));
      return [both](Napi::Env env) { return ToJavaScript(env, both); };
    });
  }

  /// Stops, reads the registers and resumes, and gives the nanoseconds of each.
  Napi::Value MeasureStop(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    const VcpuControl::Stop kind = StopKind(info[1]);
    return Post(info, [limit, kind](GuestState& state) -> GuestThread::Reply {
      const VcpuControl::Times times = state.RequireGuest().Measure(kind, After(limit));
      return [times](Napi::Env env) { return ToJavaScript(env, times); };
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
    const VcpuControl::Stop kind = StopKind(info[1]);
    return Post(info, [limit, kind](GuestState& state) -> GuestThread::Reply {
      return [report = state.Enter(kind, After(limit))](Napi::Env env) { return ToJavaScript(env, report); };
    });
  }

  Napi::Value Run(const Napi::CallbackInfo& info) {
    return Post(info, [bytes = std::make_shared<const BatchBytes>(info[0])](GuestState& state) -> GuestThread::Reply {
      const Batch batch = bytes->batch();
      auto result = std::make_shared<BatchResult>(state.RequireShadow().Run(batch));
      return [result](Napi::Env env) { return ToJavaScript(env, std::move(*result)); };
    });
  }

  /// A whole look at the guest that is one batch: enters, runs it and leaves. When it throws, the guest stands still
  /// afterwards.
  Napi::Value Ask(const Napi::CallbackInfo& info) {
    const double limit = info[0].As<Napi::Number>().DoubleValue();
    const auto bytes = std::make_shared<const BatchBytes>(info[1]);
    return Post(info, [limit, bytes](GuestState& state) -> GuestThread::Reply {
      const Batch batch = bytes->batch();
      auto answer = std::make_shared<AskReport>();
      answer->entered = state.Enter(VcpuControl::Stop::kShort, After(limit));
      answer->result = state.RequireShadow().Run(batch);
      answer->standstill = state.Leave();
      return [answer](Napi::Env env) { return ToJavaScript(env, std::move(*answer)); };
    });
  }

  /// Runs a tool against the shadow that was entered. When the budget ran out the guest runs again afterwards.
  Napi::Value Redirect(const Napi::CallbackInfo& info) {
    RedirectRequest request = ReadRedirectRequest(info[0].As<Napi::Object>());
    interrupter_ = std::make_shared<RunInterrupter>();
    return Post(
        info,
        [request = std::move(request), interrupter = interrupter_](GuestState& state) mutable -> GuestThread::Reply {
          Shadow& shadow = state.RequireShadow();
          ShadowKernel kernel(&shadow, request.next_file, GuestFiles::kFirst);
          const auto is_read_ahead = [patterns = request.policy.read_ahead](const char* path, uint64_t flags) {
            return IsReadAhead(patterns, path, flags);
          };
          const std::string command_line = CommandLine(request.launch);
          Foresight foresight(&kernel, is_read_ahead, state.past_runs.Find(command_line));
          Supervisor supervisor(&foresight, std::move(request.policy));
          const Standstill standstill = {request.budget_ms, [&] {
                                           foresight.Rest();
                                           return state.LetGo();
                                         }};
          const RunReport report = supervisor.Run(request.launch, interrupter, standstill);
          state.past_runs.Keep(command_line, foresight.Remember());
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
    const std::optional<uint64_t> root = ReadRoot(info[2]);
    return Post(info, [address, length, root](GuestState& state) -> GuestThread::Reply {
      const Shadow& shadow = state.RequireShadow();
      auto bytes = std::make_shared<std::vector<uint8_t>>(length);
      bytes->resize(shadow.Read(root.value_or(shadow.root()), address, bytes->data(), length));
      return [bytes](Napi::Env env) -> Napi::Value {
        return Napi::Buffer<uint8_t>::Copy(env, bytes->data(), bytes->size());
      };
    });
  }

  Napi::Value WriteShadow(const Napi::CallbackInfo& info) {
    const uint64_t address = ReadWord(info[0], "address");
    const Napi::Buffer<uint8_t> given = info[1].As<Napi::Buffer<uint8_t>>();
    const std::optional<uint64_t> root = ReadRoot(info[2]);
    std::vector<uint8_t> bytes(given.Data(), given.Data() + given.Length());
    return Post(info, [address, bytes = std::move(bytes), root](GuestState& state) -> GuestThread::Reply {
      Shadow& shadow = state.RequireShadow();
      const uint64_t written = shadow.Write(root.value_or(shadow.root()), address, bytes.data(), bytes.size());
      return [written](Napi::Env env) { return Napi::Number::New(env, static_cast<double>(written)); };
    });
  }

  /// Lets the guest run on, then tidies up. Gives the time for which the guest stood still, in ns.
  Napi::Value Leave(const Napi::CallbackInfo& info) {
    return Post(info, [](GuestState& state) -> GuestThread::Reply {
      return [stood = state.Leave()](Napi::Env env) { return Napi::Number::New(env, Nanoseconds(stood)); };
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
      return [calls = shadow.calls(), exits = shadow.exits(), pages = shadow.private_page_count(),
              engine = std::string(shadow.engine_name())](Napi::Env env) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("engine", engine);
        object.Set("calls", static_cast<double>(calls));
        object.Set("exits", static_cast<double>(exits));
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
    memory_->Replace(nullptr);
    return thread_.Close(info.Env(), [state = state_]() -> GuestThread::Reply {
      state->shadow = nullptr;
      state->control = nullptr;
      state->ram = nullptr;
      return nullptr;
    });
  }

  static std::optional<uint64_t> ReadRoot(Napi::Value value) {
    return value.IsUndefined() ? std::nullopt : std::optional(ReadWord(value, "root"));
  }

  std::optional<GuestMemory> memory_;
  std::shared_ptr<GuestState> state_;
  std::shared_ptr<RunInterrupter> interrupter_;
  GuestThread thread_;
};

}  // namespace

void InitGuest(Napi::Env env, Napi::Object exports) { exports.Set("Guest", Guest::Define(env)); }

}  // namespace penumbra
