// Points on the lines between real and generated samples, one alpha per row: 3N values of traffic, in one
// launch.
#include "kernels.h"
#include "launch.cuh"

namespace wgan_fast {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;

// A block mixes kThreads * kUnroll packs that follow one another in memory, whatever rows they belong to.
// Rows hold whole packs (the launcher ensures it), so a pack needs one alpha.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    interpolate_kernel(const T* real, const T* fake, const Wide<T>* alpha, T* out, int64_t packs,
                       int64_t row_packs) {
  constexpr int kBlockPacks = kThreads * kUnroll;
  const int64_t block_begin = int64_t(blockIdx.x) * kBlockPacks;
  const int64_t first_row = block_begin / row_packs;
  const int64_t offset = block_begin - first_row * row_packs;

  Pack<T, kWidth> real_pack[kUnroll], fake_pack[kUnroll];
  Wide<T> weight[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int in_block = int(threadIdx.x) + u * kThreads;
    const int64_t pack = block_begin + in_block;
    if (pack >= packs) break;
    real_pack[u] = load_pack<kWidth>(real, pack);
    fake_pack[u] = load_pack<kWidth>(fake, pack);
    // 64-bit divisions are slow: a row longer than the block ends at most once in it, and shorter rows are
    // counted in 32 bits.
    const int64_t row = row_packs >= kBlockPacks
                            ? first_row + (offset + in_block >= row_packs)
                            : first_row + uint32_t(offset + in_block) / uint32_t(row_packs);
    weight[u] = alpha[row];
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t pack = block_begin + int(threadIdx.x) + u * kThreads;
    if (pack >= packs) break;
#pragma unroll
    for (int lane = 0; lane < kWidth; ++lane) {
      const Wide<T> mixed = lerp(widen(fake_pack[u].get(lane)), widen(real_pack[u].get(lane)), weight[u]);
      real_pack[u].set(lane, narrow<T>(mixed));
    }
    store_pack<kWidth>(out, pack, real_pack[u]);
  }
}

}  // namespace

void interpolate(int64_t real, int64_t fake, int64_t alpha, int64_t out, int64_t batch, int64_t total,
                 int code, void* stream) {
  if (total == 0) return;
  const Launch launch{"interpolate", static_cast<cudaStream_t>(stream)};
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    const T *from_real = pointer<T>(real), *from_fake = pointer<T>(fake);
    const auto* weights = pointer<Wide<T>>(alpha);
    T* to = pointer<T>(out);
    const int64_t row_size = total / batch;
    const auto run = [&](auto width, auto kernel) {
      const int64_t packs = total / width;
      launch(kernel, ceil_div(packs, kThreads * kUnroll), kThreads, from_real, from_fake, weights, to, packs,
             row_size / width);
    };
    constexpr int kWidth = kPackWidth<T>;
    if (row_size % kWidth == 0 && begin_packs(from_real, from_fake, to)) {
      run(kWidth, interpolate_kernel<T, kWidth>);
    } else {
      run(1, interpolate_kernel<T, 1>);
    }
  });
}

}  // namespace wgan_fast
