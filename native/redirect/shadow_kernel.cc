#include "redirect/shadow_kernel.h"

#include <cstring>
#include <string_view>

#include "error.h"

namespace penumbra {

namespace {

constexpr uint32_t kArguments = 6;

std::string Explain(const CallFailure& failure) {
  const std::string_view code = failure.code;
  if (code == "DEVICE_ACCESS") {
    return "it needs the guest's disk, or another device, for what is not in the guest's memory";
  }
  const std::string text = failure.message + " (" + failure.code + ")";
  return code == "LOCKED" ? text + ": try again" : text;
}

}  // namespace

ShadowKernel::ShadowKernel(Shadow* shadow, const NextFile& where, uint32_t first_file)
    : shadow_(shadow), window_{shadow->window(), shadow->window_address(), Shadow::kWindowSize} {
  uint64_t files = 0;
  if (shadow_->Read(where.task + where.files, &files, sizeof files) != sizeof files ||
      shadow_->Write(files + where.next, &first_file, sizeof first_file) != sizeof first_file) {
    throw Error("CORRUPT", "the borrowed task's table of files is not mapped", files);
  }
}

Batch ShadowKernel::Encode(const GuestCall* calls, size_t count) {
  const size_t size = sizeof(BatchHeader) + count * (sizeof(StepRecord) + kArguments * sizeof(ArgumentRecord));
  encoded_.resize(size / sizeof(uint64_t));
  uint8_t* at = reinterpret_cast<uint8_t*>(encoded_.data());
  const auto put = [&at](const auto& record) {
    std::memcpy(at, &record, sizeof record);
    at += sizeof record;
  };
  put(BatchHeader{static_cast<uint32_t>(count), static_cast<uint32_t>(count * kArguments), 0, 0});
  for (uint32_t i = 0; i < count; ++i) put(StepRecord{calls[i].number, 0, kArguments, i * kArguments, 0});
  for (size_t i = 0; i < count; ++i) {
    for (uint32_t k = 0; k < kArguments; ++k) {
      ArgumentRecord argument = {};
      argument.kind = k == calls[i].result_argument ? ArgumentRecord::kResult : ArgumentRecord::kValue;
      argument.value = k == calls[i].result_argument ? calls[i].result_of : calls[i].arguments[k];
      put(argument);
    }
  }
  return Batch(reinterpret_cast<const uint8_t*>(encoded_.data()), size);
}

size_t ShadowKernel::Run(const GuestCall* calls, size_t count, uint64_t, Answer* answers) {
  const BatchResult result = shadow_->Run(Encode(calls, count));
  size_t answered = 0;
  for (const int64_t value : result.values) answers[answered++] = {value, false, false};
  for (const uint32_t step : result.blocked) answers[step].blocked = true;
  if (result.failure && answered < count) {
    failure_ = Explain(*result.failure);
    answers[answered++] = {0, false, true};
  }
  // The private memory stays, and with it the open files; what the call held when it was given up stays held.
  if (result.failure) shadow_->Recover();
  return answered;
}

}  // namespace penumbra
