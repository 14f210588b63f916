// Blocks of values in the type of the arithmetic: in place, or converted into a buffer that stays in the
// first-level cache.
#pragma once

#include "engine.h"

namespace wgan_fast {
namespace {

template <class T>
WGAN_FAST_INLINE void widen_range(const T* __restrict__ from, float* __restrict__ to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) to[i] = widen(from[i]);
}
template <class T>
WGAN_FAST_INLINE void narrow_range(const float* __restrict__ from, T* __restrict__ to, int64_t size) {
  for (int64_t i = 0; i < size; ++i) put(to[i], from[i]);
}
#define WGAN_FAST_CONVERT(T)                                                                           \
  WGAN_FAST_CLONES void widen_block(const T* from, float* to, int64_t n) { widen_range(from, to, n); } \
  WGAN_FAST_CLONES void narrow_block(const float* from, T* to, int64_t n) { narrow_range(from, to, n); }
WGAN_FAST_CONVERT(bf16)
WGAN_FAST_CONVERT(fp16)

// A part of an input in the type of the arithmetic: in place, or converted into `room`.
template <class T>
const Wide<T>* read(const T* from, int64_t begin, int64_t size, Wide<T>* room) {
  if constexpr (sizeof(T) == sizeof(Wide<T>)) {
    return from + begin;
  } else {
    widen_block(from + begin, room, size);
    return room;
  }
}

// Where a part of an output is computed: in place, or in `room` if it needs a conversion or is not needed
// (null).
template <class T>
Wide<T>* place(T* to, int64_t begin, Wide<T>* room) {
  if constexpr (sizeof(T) == sizeof(Wide<T>)) {
    return to == nullptr ? room : to + begin;
  } else {
    return room;
  }
}

// Completes place().
template <class T>
void write(const Wide<T>* room, T* to, int64_t begin, int64_t size) {
  if constexpr (sizeof(T) != sizeof(Wide<T>)) {
    if (to != nullptr) narrow_block(room, to + begin, size);
  }
}

}  // namespace
}  // namespace wgan_fast
