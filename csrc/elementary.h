// Elementary functions for host and device alike. In fp32 the host has its own, of additions, products and
// selections alone, so that compilers vectorise them; a device has instructions for the same. In fp64 both
// have libraries.
#pragma once

#include <cmath>

#include "floats.h"

namespace wgan_fast {

// e^x to 1 ulp of fp32; 0, subnormal results, infinity and NaN included.
WGAN_FAST_HD float exponential(float x) {
#if defined(__CUDA_ARCH__)
  return expf(x);
#else
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  // Adding 1.5 2^23 rounds to an integer n, which is then found in the low bits.
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  // ln 2 in two parts, so that the first product is exact. The polynomial is that of Cephes (Moshier 1984).
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float mantissa = p * (r * r) + r + 1.0f;
  // 2^n as two factors: it may itself be beyond the normal numbers.
  const int32_t exponent = int32_t(float_to_bits(shifted) - 0x4b400000u), half = exponent >> 1;
  const float first = bits_to_float(uint32_t(half + 127) << 23);
  const float second = bits_to_float(uint32_t(exponent - half + 127) << 23);
  return mantissa * first * second;
#endif
}

WGAN_FAST_HD double exponential(double x) { return exp(x); }

// 1 / x for x of at least 1.
WGAN_FAST_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, x);
#else
  return 1.0f / x;
#endif
}

WGAN_FAST_HD double reciprocal(double x) { return 1.0 / x; }

template <class W>
WGAN_FAST_HD W magnitude(W x) {
  return x < W(0) ? -x : x;
}

// The normal distribution's tail, Φ(-a) for a >= 0, where e^(-a²/2) is known: their ratio is smooth, and a
// polynomial in (a - 4) / (a + 4) over (a + 4) to 4e-8 of itself.
WGAN_FAST_HD float normal_tail(float a, float density_ratio) {
  const float r = reciprocal(a + 4.0f), w = 1.0f - 8.0f * r;
  float p = -0.0001545548f;
  p = p * w + 0.000127222505f;
  p = p * w + 0.00155857776f;
  p = p * w - 0.00347237661f;
  p = p * w - 0.00750917848f;
  p = p * w + 0.0603932291f;
  p = p * w - 0.186527297f;
  p = p * w + 0.38713792f;
  p = p * w - 0.607896388f;
  p = p * w + 0.755285144f;
  return density_ratio * (p * r);
}

WGAN_FAST_HD double normal_tail(double a, double) { return 0.5 * erfc(a * 0.70710678118654752440); }

// The logistic function of x and of -x, each to full relative accuracy, and t = e^(-|x|), r = 1 / (1 + t).
template <class W>
struct Logistic {
  W t, r, p, q;

  WGAN_FAST_HD explicit Logistic(W x) {
    t = exponential(-magnitude(x));
    r = reciprocal(W(1) + t);
    const W small = t * r;
    p = x < W(0) ? small : r;
    q = x < W(0) ? r : small;
  }
};

}  // namespace wgan_fast
