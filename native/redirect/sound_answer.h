// What any kernel promises of the structures that it returns. Programs rely on it without looking; a guest's kernel may
// have been made to break it.
#ifndef PENUMBRA_NATIVE_REDIRECT_SOUND_ANSWER_H_
#define PENUMBRA_NATIVE_REDIRECT_SOUND_ANSWER_H_

#include <cstdint>

namespace penumbra {

/// Whether `bytes` can be what system call `number` has returned: directory entries whole and with names (fs/readdir.c
/// checks that as well), strings that end, sizes that are not negative. True for calls whose bytes are only data.
bool IsSound(uint32_t number, const uint8_t* bytes, uint64_t length);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_REDIRECT_SOUND_ANSWER_H_
