// The derivatives of an activation's backward, g f(s), given v: 5N values of traffic, three
// read and two written, in one pass.
#include "activation_rules.h"
#include "kernels.h"
#include "wide_blocks.h"

namespace wgan_fast {
namespace {

// Elements processed together: converted values, and results that are not needed, stay in the first-level
// cache.
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

// Elements [begin, end). An absent output (null) is computed all the same, and stays in the cache.
template <class T, class Rule>
void differentiate_share(const Rule& rule, const T* saved, const T* g, const T* v, T* to_g, T* to_saved,
                         int64_t begin, int64_t end) {
  using W = Wide<T>;
  alignas(64) W rooms[5][kBlock];
  for (; begin < end; begin += kBlock) {
    const int64_t size = std::min(kBlock, end - begin);
    const W* wide_saved = read(saved, begin, size, rooms[0]);
    const W* wide_v = read(v, begin, size, rooms[2]);
    const W* wide_g = g == nullptr ? wide_v : read(g, begin, size, rooms[1]);
    W *first = place(to_g, begin, rooms[3]), *second = place(to_saved, begin, rooms[4]);
    differentiate(rule, wide_saved, wide_g, wide_v, first, second, size);
    write(first, to_g, begin, size);
    write(second, to_saved, begin, size);
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
