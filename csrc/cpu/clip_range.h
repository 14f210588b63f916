// The clamp of a block of values, for the kernel that only clips and for those that step first.
#pragma once

#include "engine.h"
#include "rules.h"

namespace wgan_fast {

// torch rounds the bounds to the tensor's dtype before it compares.
template <class T>
WGAN_FAST_INLINE Wide<T> rounded_bound(double bound) {
  return widen(narrow<T>(Wide<T>(bound)));
}

template <class T>
WGAN_FAST_INLINE void clip_range(T* values, int64_t count, double low, double high) {
  const Wide<T> lo = rounded_bound<T>(low), hi = rounded_bound<T>(high);
  if constexpr (sizeof(T) == sizeof(Wide<T>)) {
    for (int64_t i = 0; i < count; ++i) values[i] = clamp(values[i], lo, hi);
  } else {
    // The value is compared in fp32, but either its own bits or a bound's are stored, so none is rounded.
    const uint16_t lo_bits = narrow<T>(lo).bits, hi_bits = narrow<T>(hi).bits;
    for (int64_t i = 0; i < count; ++i) {
      const float value = widen(values[i]);
      const uint16_t raised = value < lo ? lo_bits : values[i].bits;
      values[i].bits = value > hi ? hi_bits : raised;
    }
  }
}

}  // namespace wgan_fast
