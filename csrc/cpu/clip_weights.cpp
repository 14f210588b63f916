// Clamp all weights of a critic in one parallel region: 2N values of traffic, read and write.
#include "engine.h"
#include "kernels.h"

namespace wgan_fast {
namespace {

template <class T>
WGAN_FAST_INLINE void clip_range(T* values, int64_t count, Wide<T> lo, Wide<T> hi) {
  for (int64_t i = 0; i < count; ++i) values[i] = clamp(values[i], lo, hi);
}

// 16-bit floats: the value is compared in fp32, but either its own bits or a bound's are stored, so none is
// rounded.
template <class T>
WGAN_FAST_INLINE void clip_range_16bit(T* values, int64_t count, float lo, float hi) {
  const uint16_t low = narrow<T>(lo).bits, high = narrow<T>(hi).bits;
  for (int64_t i = 0; i < count; ++i) {
    const float value = widen(values[i]);
    const uint16_t raised = value < lo ? low : values[i].bits;
    values[i].bits = value > hi ? high : raised;
  }
}

WGAN_FAST_CLONES void clip(float* values, int64_t n, float lo, float hi) { clip_range(values, n, lo, hi); }
WGAN_FAST_CLONES void clip(double* values, int64_t n, double lo, double hi) { clip_range(values, n, lo, hi); }
WGAN_FAST_CLONES void clip(bf16* values, int64_t n, float lo, float hi) {
  clip_range_16bit(values, n, lo, hi);
}
WGAN_FAST_CLONES void clip(fp16* values, int64_t n, float lo, float hi) {
  clip_range_16bit(values, n, lo, hi);
}

}  // namespace

void clip_weights(const std::vector<int64_t>& addresses, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& codes, double lo, double hi, int threads) {
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const int64_t width = codes[i] == kFloat64 ? 8 : codes[i] == kFloat32 ? 4 : 2;
    ranges.emplace_back(uintptr_t(addresses[i]), uintptr_t(addresses[i] + sizes[i] * width));
  }
  if (any_overlap(std::move(ranges))) threads = 1;
  parallel_blocks(sizes, threads, [&](size_t block, int64_t begin, int64_t end) {
    with_dtype(int(codes[block]), [&](auto tag) {
      using T = decltype(tag);
      // torch rounds the bounds to the tensor's dtype before it compares.
      using W = Wide<T>;
      const W low = widen(narrow<T>(W(lo))), high = widen(narrow<T>(W(hi)));
      clip(pointer<T>(addresses[block]) + begin, end - begin, low, high);
    });
  });
}

}  // namespace wgan_fast
