// Random points between real and generated samples: 3N values of traffic, one alpha per sample.
#include "engine.h"
#include "kernels.h"

namespace wgan_fast {
namespace {

// Elements [begin, end) of the flattened batch, row by row.
template <class T>
WGAN_FAST_INLINE void lerp_range(const T* real, const T* fake, const Wide<T>* alpha, T* out, int64_t row_size,
                                 int64_t begin, int64_t end) {
  for (int64_t row = begin / row_size; begin < end; ++row) {
    const int64_t stop = std::min(end, (row + 1) * row_size);
    const Wide<T> weight = alpha[row];
    for (int64_t i = begin; i < stop; ++i) put(out[i], lerp(widen(fake[i]), widen(real[i]), weight));
    begin = stop;
  }
}

#define WGAN_FAST_LERP(T)                                                                                 \
  WGAN_FAST_CLONES void mix(const T* real, const T* fake, const Wide<T>* alpha, T* out, int64_t row_size, \
                            int64_t begin, int64_t end) {                                                 \
    lerp_range(real, fake, alpha, out, row_size, begin, end);                                             \
  }
WGAN_FAST_LERP(float)
WGAN_FAST_LERP(double)
WGAN_FAST_LERP(bf16)
WGAN_FAST_LERP(fp16)

}  // namespace

void interpolate(int64_t real, int64_t fake, int64_t alpha, int64_t out, int64_t batch, int64_t total,
                 int code, int threads) {
  if (total == 0) return;
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    parallel_shares(total, kShareAlignment, threads, total >= kSerialBelow, [&](int64_t begin, int64_t end) {
      mix(pointer<const T>(real), pointer<const T>(fake), pointer<const Wide<T>>(alpha), pointer<T>(out),
          total / batch, begin, end);
    });
  });
}

}  // namespace wgan_fast
