#include "redirect/shadow_kernel.h"

#include "error.h"

namespace penumbra {

ShadowKernel::ShadowKernel(Shadow* shadow, const NextFile& where, uint32_t first_file)
    : shadow_(shadow),
      window_{shadow->window(), shadow->window_address(), Shadow::kWindowSize} {
  uint64_t files = 0;
  if (shadow_->Read(where.task + where.files, &files, sizeof files) != sizeof files ||
      shadow_->Write(files + where.next, &first_file, sizeof first_file) != sizeof first_file) {
    throw Error("CORRUPT", "the borrowed task's table of files is not mapped", files);
  }
}

GuestKernel::Answer ShadowKernel::Call(uint32_t number, const uint64_t (&arguments)[6]) {
  call_.step.target = number;
  for (int i = 0; i < 6; ++i) call_.arguments[i].value = arguments[i];
  const BatchResult result = shadow_->Run(Batch(reinterpret_cast<const uint8_t*>(&call_), sizeof call_));
  if (result.failure) {
    failure_ = result.failure->message + " (" + result.failure->code + ")";
    // The private memory stays, and with it the open files; what the call held when it was given up stays held.
    shadow_->Recover();
    return {0, false, true};
  }
  return {result.values[0], !result.blocked.empty(), false};
}

}  // namespace penumbra
