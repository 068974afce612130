// Engines by name.
#ifndef PENUMBRA_NATIVE_ENGINE_CHOOSE_H_
#define PENUMBRA_NATIVE_ENGINE_CHOOSE_H_

#include <memory>
#include <string>

#include "engine/engine.h"

namespace penumbra {

struct EngineChoice {
  std::string name;        ///< kvm or unicorn
  std::string kvm_device;  ///< of the engine kvm
};

/// `memory` must outlive the engine; for kvm it is made with Touch::kAnyone. Throws Error UNSUPPORTED for a name that
/// is not there, and what the engine's constructor throws.
std::unique_ptr<Engine> MakeEngine(const EngineChoice& choice, PrivateRam& memory);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_CHOOSE_H_
