// Clamp all weights of a critic in one parallel region: 2N values of traffic, read and write.
#include "clip_range.h"
#include "engine.h"
#include "kernels.h"

namespace wgan_fast {
namespace {

#define WGAN_FAST_CLIP(T)                                                      \
  WGAN_FAST_CLONES void clip(T* values, int64_t count, double lo, double hi) { \
    clip_range(values, count, lo, hi);                                         \
  }
WGAN_FAST_CLIP(float)
WGAN_FAST_CLIP(double)
WGAN_FAST_CLIP(bf16)
WGAN_FAST_CLIP(fp16)

}  // namespace

void clip_weights(const std::vector<int64_t>& addresses, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& codes, double lo, double hi, int threads) {
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  for (size_t i = 0; i < addresses.size(); ++i) {
    const int64_t end = addresses[i] + sizes[i] * bytes_of(int(codes[i]));
    ranges.emplace_back(uintptr_t(addresses[i]), uintptr_t(end));
  }
  if (any_overlap(std::move(ranges))) threads = 1;
  parallel_blocks(sizes, threads, [&](size_t block, int64_t begin, int64_t end) {
    with_dtype(int(codes[block]), [&](auto tag) {
      using T = decltype(tag);
      clip(pointer<T>(addresses[block]) + begin, end - begin, lo, hi);
    });
  });
}

}  // namespace wgan_fast
