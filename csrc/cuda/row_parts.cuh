// Rows of a matrix shared by threads: the part that each holds in registers, and sums over a row in a fixed
// order.
#pragma once

#include "launch.cuh"

namespace wgan_fast {

constexpr int kThreads = 256;
constexpr int kMostThreads = 1024;
// Items (packs, or single values where the rows are not aligned to packs) that a thread holds of a row.
template <class T, int kWidth>
constexpr int kItems = (kWidth > 1 ? 8 : 16) / (sizeof(T) == 8 ? 2 : 1);
// Items that a block of a split row takes, and those that the registers of the largest block hold.
template <class T, int kWidth>
constexpr int kPartItems = kItems<T, kWidth> * kThreads;
template <class T, int kWidth>
constexpr int kMostRowItems = kItems<T, kWidth> * kMostThreads;

// The sum over the `threads` neighbouring threads of a row: a power of two, or a whole block.
// All threads of the block call it, and all of a row get the same bits.
template <class W>
__device__ W sum_over_row(W sum, int threads) {
  for (int distance = min(threads, kWarp) / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, distance);
  }
  if (threads <= kWarp) return sum;
  __shared__ W of_warp[kMostThreads / kWarp];
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sum;
  __syncthreads();
  W total = 0;
  const int warps = threads / kWarp, first = int(threadIdx.x) / threads * warps;
  for (int warp = first; warp < first + warps; ++warp) total += of_warp[warp];
  __syncthreads();  // of_warp may be written again
  return total;
}

// The items of a row (or of a part of one) that one of the threads that share it holds: every threads-th.
template <class T, int kWidth>
struct HeldItems {
  static constexpr int kCount = kItems<T, kWidth>;
  Pack<T, kWidth> held[kCount];
  int items, lane, threads;

  __device__ __forceinline__ HeldItems(const T* row, int items, int lane, int threads)
      : items(items), lane(lane), threads(threads) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (lane + k * threads < items) held[k] = load_pack<kWidth>(row, lane + k * threads);
    }
  }

  __device__ __forceinline__ Wide<T> sum_of_squares() const {
    Wide<T> sum = 0;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (lane + k * threads >= items) break;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const Wide<T> value = widen(held[k].get(i));
        sum += value * value;
      }
    }
    return sum;
  }

  __device__ __forceinline__ void store_scaled(T* row, Wide<T> coefficient) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (lane + k * threads >= items) break;
      held[k].stay_packed();
#pragma unroll
      for (int i = 0; i < kWidth; ++i) held[k].set(i, narrow<T>(coefficient * widen(held[k].get(i))));
      store_pack<kWidth>(row, lane + k * threads, held[k]);
    }
  }
};

}  // namespace wgan_fast
