#include "binding/guest_memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "binding/environment.h"
#include "binding/recipe.h"
#include "memory/measure.h"
#include "memory/page_walk.h"
#include "memory/scan.h"

namespace penumbra {

namespace {

constexpr uint32_t kMaxRead = 256 << 20;
constexpr size_t kMaxExtents = 65536;
constexpr size_t kMaxRequests = 1 << 20;
constexpr size_t kMostReaders = 4;

template <typename Item>
Napi::BigUint64Array ToWords(Napi::Env env, const std::vector<Item>& items) {
  static_assert(sizeof(Item) % 8 == 0);
  Napi::BigUint64Array array = Napi::BigUint64Array::New(env, items.size() * sizeof(Item) / 8);
  if (!items.empty()) std::memcpy(array.Data(), items.data(), items.size() * sizeof(Item));
  return array;
}

// A Buffer of the first `used` bytes.
Napi::Value Shortened(Napi::Env env, Napi::Buffer<uint8_t> buffer, uint64_t used) {
  if (used == buffer.Length()) return buffer;
  return Napi::Buffer<uint8_t>::Copy(env, buffer.Data(), used);
}

}  // namespace

std::vector<RamDescriptor> ReadRegions(Napi::Value value) {
  const Napi::Array regions = value.As<Napi::Array>();
  std::vector<RamDescriptor> descriptors;
  for (uint32_t i = 0; i < regions.Length(); ++i) {
    const Napi::Object region = regions.Get(i).As<Napi::Object>();
    RamDescriptor descriptor{};
    descriptor.gpa = ReadWord(region.Get("gpa"), "gpa");
    descriptor.size = ReadWord(region.Get("size"), "size");
    descriptor.fd = static_cast<int>(ReadWord(region.Get("fd"), "fd"));
    descriptor.offset = ReadWord(region.Get("offset"), "offset");
    descriptor.pid =
        region.Get("process").IsUndefined() ? 0 : static_cast<int>(ReadWord(region.Get("process"), "process"));
    descriptor.foreign = descriptor.pid != 0;
    descriptor.copied = region.Get("copied").ToBoolean();
    descriptor.sparse = region.Get("sparse").ToBoolean();
    descriptors.push_back(descriptor);
  }
  return descriptors;
}

AddressSpace ReadSpace(const Napi::CallbackInfo& info) {
  return {ReadWord(info[0], "root"), static_cast<int>(ReadWord(info[1], "levels"))};
}

uint32_t ReadLength(Napi::Value value) {
  const uint64_t length = ReadWord(value, "length");
  if (length > kMaxRead) throw Napi::RangeError::New(value.Env(), "length is too large");
  return static_cast<uint32_t>(length);
}

Napi::BigUint64Array ReadWords(Napi::Value value, const char* what) {
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_biguint64_array) {
    return value.As<Napi::BigUint64Array>();
  }
  throw Napi::TypeError::New(value.Env(), std::string(what) + " must be a BigUint64Array");
}

void GuestMemory::Replace(std::shared_ptr<const GuestRam> ram) {
  readers_.clear();
  ram_ = std::move(ram);
}

const GuestRam& GuestMemory::Ram(const Napi::CallbackInfo& info) const {
  if (ram_ != nullptr) return *ram_;
  throw Napi::Error(info.Env(), ToJavaScript(info.Env(), Error("BAD_ARGUMENT", "the guest is detached")));
}

VirtualReader& GuestMemory::Reader(const Napi::CallbackInfo& info) {
  const GuestRam& ram = Ram(info);
  const AddressSpace space = ReadSpace(info);
  const auto known = std::find_if(readers_.begin(), readers_.end(), [&space](const Known& candidate) {
    return candidate.reader->space().root == space.root && candidate.reader->space().levels == space.levels;
  });
  if (known == readers_.end()) {
    if (readers_.size() == kMostReaders) readers_.pop_back();
    readers_.insert(readers_.begin(), {std::make_unique<VirtualReader>(ram, space), 0});
  } else {
    std::rotate(readers_.begin(), known, known + 1);
  }
  Known& first = readers_.front();
  const uint64_t now = episode_->load(std::memory_order_acquire);
  if (first.episode != now || (now & 1) == 0) first.reader->Forget();
  first.episode = now;
  return *first.reader;
}

Napi::Value GuestMemory::Read(const Napi::CallbackInfo& info) {
  const uint64_t gpa = ReadWord(info[0], "gpa");
  const uint32_t length = ReadLength(info[1]);
  return Guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Buffer<uint8_t> out = Napi::Buffer<uint8_t>::New(info.Env(), length);
    Ram(info).Read(gpa, out.Data(), length);
    return out;
  });
}

Napi::Value GuestMemory::Find(const Napi::CallbackInfo& info) {
  const Napi::Buffer<uint8_t> needle = info[0].As<Napi::Buffer<uint8_t>>();
  const std::vector<uint64_t> hits = FindBytes(Ram(info), needle.Data(), needle.Length(), ReadWord(info[1], "from"),
                                               ReadWord(info[2], "to"), ReadLength(info[3]));
  Napi::Array array = Napi::Array::New(info.Env(), hits.size());
  for (uint32_t i = 0; i < hits.size(); ++i) array.Set(i, Napi::BigInt::New(info.Env(), hits[i]));
  return array;
}

Napi::Value GuestMemory::TranslateAddress(const Napi::CallbackInfo& info) {
  const Translation translation = Translate(Ram(info), ReadSpace(info), ReadWord(info[2], "address"));
  if (!translation.mapped()) return info.Env().Undefined();
  return Napi::BigInt::New(info.Env(), translation.gpa);
}

Napi::Value GuestMemory::Walk(const Napi::CallbackInfo& info) {
  const Translation translation = Translate(Ram(info), ReadSpace(info), ReadWord(info[2], "address"));
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("result", static_cast<double>(translation.result));
  object.Set("gpa", Napi::BigInt::New(info.Env(), translation.gpa));
  object.Set("pageSize", Napi::BigInt::New(info.Env(), translation.page_size));
  object.Set("entry", Napi::BigInt::New(info.Env(), translation.entry));
  return object;
}

/// Returns the bytes before the first one that is not mapped.
Napi::Value GuestMemory::ReadVirtual(const Napi::CallbackInfo& info) {
  const uint32_t length = ReadLength(info[3]);
  const uint64_t address = ReadWord(info[2], "address");
  return Guarded(info.Env(), [&] {
    VirtualReader& reader = Reader(info);
    Napi::Buffer<uint8_t> out = Napi::Buffer<uint8_t>::New(info.Env(), length);
    const uint64_t got = reader.Read(address, out.Data(), length);
    Ram(info).RequireIntact();
    return Shortened(info.Env(), out, got);
  });
}

Napi::Value GuestMemory::ReadPresent(const Napi::CallbackInfo& info) {
  const uint32_t length = ReadLength(info[3]);
  const uint64_t address = ReadWord(info[2], "address");
  return Guarded(info.Env(), [&]() -> Napi::Value {
    VirtualReader& reader = Reader(info);
    Napi::Buffer<uint8_t> out = Napi::Buffer<uint8_t>::New(info.Env(), length);
    const std::vector<VirtualReader::Hole> holes = reader.ReadPresent(address, out.Data(), length);
    Ram(info).RequireIntact();
    std::vector<uint64_t> words;
    for (const VirtualReader::Hole& hole : holes) {
      words.insert(words.end(), {hole.address, hole.size, static_cast<uint64_t>(hole.result), hole.entry});
    }
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("bytes", out);
    object.Set("holes", ToWords(info.Env(), words));
    return object;
  });
}

Napi::Value GuestMemory::ReadScattered(const Napi::CallbackInfo& info) {
  const Napi::BigUint64Array words = penumbra::ReadWords(info[2], "requests");
  const size_t count = words.ElementLength() / 2;
  if (count > kMaxRequests) throw Napi::RangeError::New(info.Env(), "too many requests");
  std::vector<VirtualReader::Request> requests(count);
  static_assert(sizeof(VirtualReader::Request) == 16);
  if (count > 0) std::memcpy(requests.data(), words.Data(), count * sizeof(VirtualReader::Request));
  uint64_t total = 0;
  for (const VirtualReader::Request& request : requests) total += std::min<uint64_t>(request.length, kMaxRead + 1);
  if (total > kMaxRead) throw Napi::RangeError::New(info.Env(), "length is too large");
  return Guarded(info.Env(), [&]() -> Napi::Value {
    VirtualReader& reader = Reader(info);
    Napi::Buffer<uint8_t> out = Napi::Buffer<uint8_t>::New(info.Env(), total);
    Napi::BigUint64Array lengths = Napi::BigUint64Array::New(info.Env(), count);
    reader.ReadScattered(requests, out.Data(), lengths.Data());
    Ram(info).RequireIntact();
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("bytes", out);
    object.Set("lengths", lengths);
    return object;
  });
}

Napi::Value GuestMemory::LoadWords(const Napi::CallbackInfo& info) {
  const Napi::BigUint64Array given = penumbra::ReadWords(info[2], "addresses");
  return Guarded(info.Env(), [&]() -> Napi::Value {
    VirtualReader& reader = Reader(info);
    const VirtualReader::Counts before = reader.counts();
    const size_t count = given.ElementLength();
    Napi::BigUint64Array values = Napi::BigUint64Array::New(info.Env(), count);
    const std::vector<uint32_t> missing = reader.LoadAll({given.Data(), count}, values.Data());
    Ram(info).RequireIntact();
    Napi::Uint32Array indices = Napi::Uint32Array::New(info.Env(), missing.size());
    std::copy(missing.begin(), missing.end(), indices.Data());
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("values", values);
    object.Set("missing", indices);
    object.Set("hits", static_cast<double>(reader.counts().hits - before.hits));
    object.Set("misses", static_cast<double>(reader.counts().misses - before.misses));
    return object;
  });
}

Napi::Value GuestMemory::Extents(const Napi::CallbackInfo& info) {
  const ExtentList found =
      FindExtents(Ram(info), ReadSpace(info), ReadWord(info[2], "from"), ReadWord(info[3], "to"), kMaxExtents);
  static_assert(sizeof(Extent) == 24);
  Napi::Object object = Napi::Object::New(info.Env());
  object.Set("words", ToWords(info.Env(), found.extents));
  object.Set("complete", found.complete);
  return object;
}

/// Takes addresses of words, of pages, a guest-physical address above all RAM, and guest-physical pages to be touched.
Napi::Value GuestMemory::MeasureReads(const Napi::CallbackInfo& info) {
  const auto list = [&info](size_t index) {
    const Napi::BigUint64Array words = penumbra::ReadWords(info[index], "addresses");
    return std::vector<uint64_t>(words.Data(), words.Data() + words.ElementLength());
  };
  constexpr int kRounds = 20;
  return Guarded(info.Env(), [&]() -> Napi::Value {
    const AddressSpace space = ReadSpace(info);
    const WordCost words = MeasureWords(Ram(info), space, list(2));
    const PageCost pages = MeasurePages(Ram(info), space, list(3), kRounds);
    const std::vector<double> touches = MeasureTouches(Ram(info), ReadWord(info[4], "scratch"), list(5));
    Napi::Float64Array touch_ns = Napi::Float64Array::New(info.Env(), touches.size());
    std::copy(touches.begin(), touches.end(), touch_ns.Data());
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("wordNs", words.ns);
    object.Set("hits", static_cast<double>(words.hits));
    object.Set("misses", static_cast<double>(words.misses));
    object.Set("readNs", pages.read_ns);
    object.Set("copyNs", pages.copy_ns);
    object.Set("bytes", static_cast<double>(pages.bytes));
    object.Set("touchNs", touch_ns);
    return object;
  });
}

}  // namespace penumbra
