// The floating-point types of the tensors, for host and device alike: their values in the type that
// arithmetic on them is done in, and back, rounded to nearest.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define WGAN_FAST_HD __host__ __device__ __forceinline__
#else
#define WGAN_FAST_HD inline __attribute__((always_inline))
#endif

namespace wgan_fast {

// 16-bit floats are carried as bits and computed with in fp32. A device has an instruction for each
// conversion; the arithmetic on bits beside it gives the same values.
struct bf16 {
  uint16_t bits;
};
struct fp16 {
  uint16_t bits;
};

template <class T>
struct WideOf {
  using type = float;
};
template <>
struct WideOf<double> {
  using type = double;
};
// The type that arithmetic on T is done in.
template <class T>
using Wide = typename WideOf<T>::type;

WGAN_FAST_HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

WGAN_FAST_HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

WGAN_FAST_HD float widen(float value) { return value; }
WGAN_FAST_HD double widen(double value) { return value; }
WGAN_FAST_HD float widen(const bf16& value) { return bits_to_float(uint32_t(value.bits) << 16); }

// Shift the half's exponent into place, then let one exact product rescale normals and subnormals alike.
WGAN_FAST_HD float widen(const fp16& value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t magnitude = uint32_t(value.bits & 0x7fffu) << 13;
  const uint32_t sign = uint32_t(value.bits & 0x8000u) << 16;
  const float scaled = bits_to_float(magnitude) * bits_to_float(0x77800000u);  // 2^112
  const uint32_t special = (value.bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return bits_to_float(sign | float_to_bits(scaled) | special);
#endif
}

// narrow<T>(wide): rounded to nearest, ties to even, NaN kept.
template <class T>
struct Narrow;

template <>
struct Narrow<float> {
  WGAN_FAST_HD static float of(float value) { return value; }
};

template <>
struct Narrow<double> {
  WGAN_FAST_HD static double of(double value) { return value; }
};

template <>
struct Narrow<bf16> {
  WGAN_FAST_HD static bf16 of(float value) {
#if defined(__CUDA_ARCH__)
    uint16_t half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return {half};
#else
    const uint32_t bits = float_to_bits(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return {uint16_t(value != value ? 0x7fc0u : rounded)};
#endif
  }
};

template <>
struct Narrow<fp16> {
  WGAN_FAST_HD static fp16 of(float value) {
#if defined(__CUDA_ARCH__)
    uint16_t half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return {half};
#else
    const uint32_t bits = float_to_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    // Normal halves: rebias the exponent and round the 13 bits that fall away.
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Subnormal halves (below 2^-14): adding 0.5 aligns and rounds the mantissa in the fp32 adder.
    const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // 65520 and above round to infinity
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    return {uint16_t(sign | half)};
#endif
  }
};

template <class T, class W>
WGAN_FAST_HD T narrow(W value) {
  return Narrow<T>::of(value);
}

}  // namespace wgan_fast
