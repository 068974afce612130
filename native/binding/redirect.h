// Reads what a redirected run is to be from JavaScript, and gives its report back.
#ifndef PENUMBRA_NATIVE_BINDING_REDIRECT_H_
#define PENUMBRA_NATIVE_BINDING_REDIRECT_H_

#include <napi.h>

#include <string>

#include "redirect/launch.h"
#include "redirect/policy.h"
#include "redirect/shadow_kernel.h"
#include "redirect/supervisor.h"

namespace penumbra {

struct RedirectRequest {
  Policy policy;
  LaunchRequest launch;
  NextFile next_file;
  double budget_ms = 0;
};

/// Throws a JavaScript TypeError when a member is missing, Error BAD_ARGUMENT for a malformed table.
RedirectRequest ReadRedirectRequest(Napi::Object object);

/// What tells one run of a program from another one of it.
std::string CommandLine(const LaunchRequest& request);

Napi::Value ToJavaScript(Napi::Env env, const RunReport& report);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_REDIRECT_H_
