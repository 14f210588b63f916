// The clamp of a block of values, for the kernel that only clips and for those that step first.
#pragma once

#include "engine.h"
#include "rules.h"

namespace wgan_fast {

template <class T>
WGAN_FAST_INLINE void clip_range(T* values, int64_t count, double low, double high) {
  const ClipBounds<T> bounds(low, high);
  if constexpr (sizeof(T) == sizeof(Wide<T>)) {
    for (int64_t i = 0; i < count; ++i) values[i] = bounds(values[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) values[i].bits = bounds(values[i]).bits;
  }
}

}  // namespace wgan_fast
