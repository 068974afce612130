// JavaScript's reads of a live guest's memory.
#ifndef PENUMBRA_NATIVE_BINDING_GUEST_MEMORY_H_
#define PENUMBRA_NATIVE_BINDING_GUEST_MEMORY_H_

#include <napi.h>

#include <atomic>
#include <memory>
#include <vector>

#include "memory/guest_ram.h"
#include "memory/virtual_reader.h"

namespace penumbra {

/// Counts the guest's stops and resumes: odd while it stands still. Set by the guest's thread.
using Episode = std::atomic<uint64_t>;

/// The regions that openRam in src/hypervisor/ramLayout.ts describes.
std::vector<RamDescriptor> ReadRegions(Napi::Value value);

/// A page table root and its levels, the first two arguments of most methods.
AddressSpace ReadSpace(const Napi::CallbackInfo& info);

/// Throws Napi::RangeError above what one call may ask for.
uint32_t ReadLength(Napi::Value value);

/// Throws Napi::TypeError when `value` is no BigUint64Array.
Napi::BigUint64Array ReadWords(Napi::Value value, const char* what);

/// Used on JavaScript's thread only, and at once: nothing here waits for the guest. Translations are kept while the
/// guest stands still, and for one call while it runs.
class GuestMemory {
 public:
  GuestMemory(std::shared_ptr<const GuestRam> ram, std::shared_ptr<const Episode> episode)
      : ram_(std::move(ram)), episode_(std::move(episode)) {}

  /// From now on this is the guest's RAM; nullptr when it is detached.
  void Replace(std::shared_ptr<const GuestRam> ram);

  Napi::Value Read(const Napi::CallbackInfo& info);
  Napi::Value Find(const Napi::CallbackInfo& info);
  Napi::Value TranslateAddress(const Napi::CallbackInfo& info);
  Napi::Value Walk(const Napi::CallbackInfo& info);
  Napi::Value ReadVirtual(const Napi::CallbackInfo& info);
  Napi::Value ReadPresent(const Napi::CallbackInfo& info);
  Napi::Value ReadScattered(const Napi::CallbackInfo& info);
  Napi::Value LoadWords(const Napi::CallbackInfo& info);
  Napi::Value Extents(const Napi::CallbackInfo& info);
  Napi::Value MeasureReads(const Napi::CallbackInfo& info);

 private:
  struct Known {
    std::unique_ptr<VirtualReader> reader;
    uint64_t episode;
  };

  const GuestRam& Ram(const Napi::CallbackInfo& info) const;
  VirtualReader& Reader(const Napi::CallbackInfo& info);

  std::shared_ptr<const GuestRam> ram_;
  std::shared_ptr<const Episode> episode_;
  std::vector<Known> readers_;  ///< the one used last comes first
};

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_BINDING_GUEST_MEMORY_H_
