#include "engine/choose.h"

#include "engine/kvm_engine.h"
#include "engine/unicorn_engine.h"
#include "error.h"

namespace penumbra {

std::unique_ptr<Engine> MakeEngine(const EngineChoice& choice, PrivateRam& memory) {
  if (choice.name == "unicorn") return std::make_unique<UnicornEngine>(memory);
  if (choice.name == "kvm") return std::make_unique<KvmEngine>(choice.kvm_device, memory);
  throw Error("UNSUPPORTED", "there is no engine " + choice.name);
}

}  // namespace penumbra
