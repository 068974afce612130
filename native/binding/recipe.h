// Reads a context recipe that TypeScript computed (src/shadow/recipe.ts has the same shape).
#ifndef PENUMBRA_NATIVE_BINDING_RECIPE_H_
#define PENUMBRA_NATIVE_BINDING_RECIPE_H_

#include <napi.h>

#include "engine/choose.h"
#include "shadow/recipe.h"

namespace penumbra {

/// Throws a JavaScript TypeError when a member is missing.
Recipe ReadRecipe(Napi::Object object);

/// { name: string, device: string }
EngineChoice ReadEngineChoice(Napi::Object object);

/// A 64-bit unsigned member given as bigint or number.
uint64_t ReadWord(Napi::Value value, const char* what);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_RECIPE_H_
