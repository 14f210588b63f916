// The derivatives of an activation's backward, g f(s), where v arrives at it: 5N values of traffic, three
// read and two written, in one pass.
#include "activation_rules.h"
#include "engine.h"
#include "kernels.h"

namespace wgan_fast {
namespace {

// Elements that are worked on together: what is converted, or computed and not wanted, stays in the
// first-level cache.
constexpr int64_t kBlock = 512;

template <class Rule, class W>
WGAN_FAST_INLINE void differentiate_range(const Rule& given, const W* __restrict__ saved,
                                          const W* __restrict__ g, const W* __restrict__ v,
                                          W* __restrict__ to_g, W* __restrict__ to_saved, int64_t size) {
  const Rule rule = given;  // Its numbers in registers: a choice of one in memory would be a branch.
  for (int64_t i = 0; i < size; ++i) {
    const Slope<W> slope = rule(saved[i]);
    const W tangent = v[i];
    to_g[i] = tangent * slope.value;
    to_saved[i] = tangent * g[i] * slope.derivative;
  }
}

#define WGAN_FAST_DIFFERENTIATE(Rule, W)                                                                    \
  WGAN_FAST_CLONES void differentiate(const Rule<W>& rule, const W* saved, const W* g, const W* v, W* to_g, \
                                      W* to_saved, int64_t size) {                                          \
    differentiate_range(rule, saved, g, v, to_g, to_saved, size);                                           \
  }
#define WGAN_FAST_DIFFERENTIATE_BOTH(Rule) \
  WGAN_FAST_DIFFERENTIATE(Rule, float)     \
  WGAN_FAST_DIFFERENTIATE(Rule, double)
WGAN_FAST_ACTIVATIONS(WGAN_FAST_DIFFERENTIATE_BOTH)

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

// A part of an input in the type of the arithmetic: where it lies, or converted into `room`.
template <class T>
const Wide<T>* read(const T* from, int64_t begin, int64_t size, Wide<T>* room) {
  if constexpr (sizeof(T) == sizeof(Wide<T>)) {
    return from + begin;
  } else {
    widen_block(from + begin, room, size);
    return room;
  }
}

// Elements [begin, end). An absent output (null) is computed all the same, and stays in the cache.
template <class T, class Rule>
void differentiate_share(const Rule& rule, const T* saved, const T* g, const T* v, T* to_g, T* to_saved,
                         int64_t begin, int64_t end) {
  using W = Wide<T>;
  constexpr bool kWide = sizeof(T) == sizeof(W);
  alignas(64) W rooms[5][kBlock];
  for (; begin < end; begin += kBlock) {
    const int64_t size = std::min(kBlock, end - begin);
    const W* wide_saved = read(saved, begin, size, rooms[0]);
    const W* wide_v = read(v, begin, size, rooms[2]);
    const W* wide_g = g == nullptr ? wide_v : read(g, begin, size, rooms[1]);
    W *first = rooms[3], *second = rooms[4];
    if constexpr (kWide) {
      if (to_g != nullptr) first = to_g + begin;
      if (to_saved != nullptr) second = to_saved + begin;
    }
    differentiate(rule, wide_saved, wide_g, wide_v, first, second, size);
    if constexpr (!kWide) {
      if (to_g != nullptr) narrow_block(first, to_g + begin, size);
      if (to_saved != nullptr) narrow_block(second, to_saved + begin, size);
    }
  }
}

}  // namespace

void activation_double_backward(int64_t saved, int64_t g, int64_t v, int64_t to_g, int64_t to_saved,
                                int64_t size, int code, int activation, const ActivationOptions& options,
                                int threads) {
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    with_activation<Wide<T>>(activation, options, [&](const auto& rule) {
      parallel_shares(size, kShareAlignment, threads, size >= kSerialBelow, [&](int64_t begin, int64_t end) {
        differentiate_share(rule, pointer<const T>(saved), pointer<const T>(g), pointer<const T>(v),
                            pointer<T>(to_g), pointer<T>(to_saved), begin, end);
      });
    });
  });
}

}  // namespace wgan_fast
