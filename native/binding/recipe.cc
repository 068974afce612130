#include "binding/recipe.h"

#include <string>

namespace penumbra {

namespace {

uint64_t Word(const Napi::Object& object, const char* name) { return ReadWord(object.Get(name), name); }

uint32_t Small(const Napi::Object& object, const char* name) { return static_cast<uint32_t>(Word(object, name)); }

bool Has(const Napi::Object& object, const char* name) { return !object.Get(name).IsUndefined(); }

Location ReadLocation(const Napi::Object& object) {
  Location location;
  location.base = static_cast<Location::Base>(Small(object, "base"));
  location.offset = Word(object, "offset");
  location.indirect = Has(object, "indirectOffset");
  if (location.indirect) location.indirect_offset = Word(object, "indirectOffset");
  return location;
}

CodeRange ReadRange(const Napi::Value& value) {
  const Napi::Object object = value.As<Napi::Object>();
  return {Word(object, "start"), Word(object, "size")};
}

template <typename Item, typename Read>
std::vector<Item> ReadList(const Napi::Object& object, const char* name, Read read) {
  const Napi::Array array = object.Get(name).As<Napi::Array>();
  std::vector<Item> items;
  items.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) items.push_back(read(array.Get(i)));
  return items;
}

}  // namespace

uint64_t ReadWord(Napi::Value value, const char* what) {
  bool lossless = true;
  if (value.IsBigInt()) return value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (value.IsNumber()) return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
  throw Napi::TypeError::New(value.Env(), std::string(what) + " must be a bigint or a number");
}

Recipe ReadRecipe(Napi::Object object) {
  Recipe recipe;
  recipe.levels = static_cast<int>(Small(object, "levels"));
  recipe.kernel_root = Word(object, "kernelRoot");
  recipe.per_cpu_bases =
      ReadList<uint64_t>(object, "perCpuBases", [](Napi::Value value) { return ReadWord(value, "perCpuBases"); });
  recipe.current_task = Word(object, "currentTask");
  recipe.task_pid = Word(object, "taskPid");
  recipe.task_mm = Word(object, "taskMm");
  recipe.task_stack = Word(object, "taskStack");
  recipe.task_thread_sp = Word(object, "taskThreadSp");
  recipe.task_state = Word(object, "taskState");
  recipe.task_state_width = Small(object, "taskStateWidth") == 4 ? 4 : 8;
  recipe.task_exit_state = Word(object, "taskExitState");
  if (Has(object, "taskOnCpu")) recipe.task_on_cpu = Word(object, "taskOnCpu");
  recipe.mm_pgd = Word(object, "mmPgd");
  recipe.stack_size = Word(object, "stackSize");
  recipe.borrowed_task = Word(object, "borrowedTask");
  recipe.borrowed_pid = Small(object, "borrowedPid");
  recipe.syscall_dispatch = Word(object, "syscallDispatch");
  recipe.registers_first = object.Get("registersFirst").ToBoolean();
  recipe.syscall_table = Word(object, "syscallTable");
  recipe.syscall_count = Word(object, "syscallCount");
  recipe.idt = Word(object, "idt");
  recipe.gdt_per_cpu = Word(object, "gdtPerCpu");
  recipe.tss_per_cpu = Word(object, "tssPerCpu");
  recipe.text_start = Word(object, "textStart");
  recipe.text_end = Word(object, "textEnd");
  if (Has(object, "codeVersion")) recipe.code_version = ReadLocation(object.Get("codeVersion").As<Napi::Object>());
  const Napi::Buffer<uint8_t> code = object.Get("code").As<Napi::Buffer<uint8_t>>();
  recipe.code.assign(code.Data(), code.Data() + code.Length());
  recipe.sequences =
      ReadList<Location>(object, "sequences", [](Napi::Value value) { return ReadLocation(value.As<Napi::Object>()); });
  recipe.lock_functions = ReadList<CodeRange>(object, "lockFunctions", ReadRange);
  recipe.harmless_readers = ReadList<CodeRange>(object, "harmlessReaders", ReadRange);
  if (Has(object, "pageWait")) {
    const Napi::Object wait = object.Get("pageWait").As<Napi::Object>();
    recipe.page_wait =
        PageWait{Word(wait, "wakeFunction"), Word(wait, "function"),  Word(wait, "flags"),  Word(wait, "page"),
                 Word(wait, "bit"),          Word(wait, "pageFlags"), Word(wait, "locked"), Word(wait, "upToDate")};
  }
  if (Has(object, "signal")) {
    const Napi::Object signal = object.Get("signal").As<Napi::Object>();
    recipe.signal = SignalRule{Word(signal, "flags"), Word(signal, "flagsSet"), Word(signal, "pending"),
                               Word(signal, "pendingSet"), Word(signal, "sleepStates")};
  }
  if (Has(object, "counter")) {
    const Napi::Object counter = object.Get("counter").As<Napi::Object>();
    CounterRule rule;
    rule.clock = ReadLocation(counter.Get("clock").As<Napi::Object>());
    rule.last = ReadLocation(counter.Get("last").As<Napi::Object>());
    rule.counter_clocks = ReadList<uint64_t>(counter, "counterClocks",
                                             [](Napi::Value value) { return ReadWord(value, "counterClocks"); });
    if (Has(counter, "page")) {
      rule.page_clock = Word(counter, "pageClock");
      rule.page = ReadLocation(counter.Get("page").As<Napi::Object>());
    }
    recipe.counter = rule;
  }
  if (Has(object, "xcr0")) recipe.xcr0 = Word(object, "xcr0");
  recipe.patches = ReadList<Patch>(object, "patches", [](Napi::Value value) {
    const Napi::Object item = value.As<Napi::Object>();
    Patch patch;
    patch.where = ReadLocation(item.Get("where").As<Napi::Object>());
    patch.width = Small(item, "width");
    patch.keep = Word(item, "keep");
    patch.source = static_cast<Patch::Source>(Small(item, "source"));
    patch.constant = Word(item, "constant");
    return patch;
  });
  recipe.samples = ReadList<Sample>(object, "samples", [](Napi::Value value) {
    const Napi::Object item = value.As<Napi::Object>();
    return Sample{ReadLocation(item.Get("from").As<Napi::Object>()), Small(item, "width"), Small(item, "codeOffset")};
  });
  recipe.traps = ReadList<TrapRule>(object, "traps", [](Napi::Value value) {
    const Napi::Object item = value.As<Napi::Object>();
    return TrapRule{Word(item, "address"), static_cast<TrapRule::Kind>(Small(item, "kind")), Word(item, "value"),
                    item.Get("name").ToString().Utf8Value()};
  });
  return recipe;
}

EngineChoice ReadEngineChoice(Napi::Object object) {
  return {object.Get("name").ToString().Utf8Value(), object.Get("device").ToString().Utf8Value()};
}

}  // namespace penumbra
