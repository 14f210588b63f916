// The derivatives of a norm's backward, given v (norm_rules.h): 5N values of traffic, three read
// and two written, where a row fits into the registers of the threads that share it.
//
// A worker is part of a warp, a warp or a block. It has one group of channels of a chunk of samples, row by
// row, so that what the rows add to the gradients of its weights stays in registers; one more launch adds the
// chunks. Longer rows are split over blocks, which read them twice: a launch for the partial sums, one for
// the results.
//
// The order of every sum depends on the shape and the alignment only: the same input gives the same bits. The
// weight has one value per value of a sample here; the caller repeats it, and folds its gradient.
#include <algorithm>

#include "kernels.h"
#include "launch.cuh"

namespace wgan_fast {
namespace {

constexpr int kRowThreads = 512;  // at most, sharing a row: 128 registers each
constexpr int kPartThreads = 256;
constexpr int kBlockThreads = 128;  // of a block of several workers
// Values of a row that a thread has.
template <class T>
constexpr int kHeld = sizeof(T) == 8 ? 4 : 8;
template <class T, int kWidth>
constexpr int kPacks = kHeld<T> / kWidth;
template <class T>
constexpr int64_t kPartSize = kHeld<T> * kPartThreads;

template <class T>
struct NormTensors {
  const T *x, *g, *v;
  const Wide<T>*mean, *rstd, *weight;
  T *to_g, *to_x;
  Wide<T>* partials;  // of the weight's gradient: (chunks, values of a sample)

  __device__ __forceinline__ Wide<T> mean_of(int64_t row) const { return mean ? mean[row] : Wide<T>(0); }
};

// The sum over the `threads` neighbouring threads of a row: a power of two up to a warp, or a whole block.
// All threads of the block call it, and all of a row get the same bits.
template <class W>
__device__ NormSums<W> sums_over_row(NormSums<W> sums, int threads) {
  for (int distance = min(threads, kWarp) / 2; distance > 0; distance /= 2) {
    sums.v += __shfl_xor_sync(kFullWarp, sums.v, distance);
    sums.vx += __shfl_xor_sync(kFullWarp, sums.vx, distance);
    sums.g += __shfl_xor_sync(kFullWarp, sums.g, distance);
    sums.gx += __shfl_xor_sync(kFullWarp, sums.gx, distance);
    sums.vg += __shfl_xor_sync(kFullWarp, sums.vg, distance);
  }
  if (threads <= kWarp) return sums;
  __shared__ NormSums<W> of_warp[kRowThreads / kWarp];
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = sums;
  __syncthreads();
  NormSums<W> total = of_warp[0];
  for (int warp = 1; warp < threads / kWarp; ++warp) total.add(of_warp[warp]);
  __syncthreads();  // of_warp may be written again
  return total;
}

// The part of a row that one of the threads that share it has: every threads-th pack.
template <class T, int kWidth>
struct HeldRow {
  using W = Wide<T>;
  static constexpr int kCount = kPacks<T, kWidth>;
  Pack<T, kWidth> x[kCount], g[kCount], v[kCount];
  int items, lane, threads;

  __device__ __forceinline__ bool has(int k) const { return lane + k * threads < items; }

  __device__ __forceinline__ HeldRow(const NormTensors<T>& at, int64_t begin, int items, int lane,
                                     int threads)
      : items(items), lane(lane), threads(threads) {
    const T* signal = at.g == nullptr ? at.v : at.g;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (!has(k)) continue;
      x[k] = load_pack<kWidth>(at.x + begin, lane + k * threads);
      g[k] = load_pack<kWidth>(signal + begin, lane + k * threads);
      v[k] = load_pack<kWidth>(at.v + begin, lane + k * threads);
    }
  }

  __device__ __forceinline__ NormSums<W> sums(const W* weights, W mean, W rstd) const {
    NormSums<W> sums{};
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (!has(k)) continue;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const W normalized = (widen(x[k].get(i)) - mean) * rstd, tangent = widen(v[k].get(i));
        const W weighted = widen(g[k].get(i)) * weights[k * kWidth + i];
        sums.add({tangent, tangent * normalized, weighted, weighted * normalized, tangent * weighted});
      }
    }
    return sums;
  }

  __device__ __forceinline__ void store_results(const NormTensors<T>& at, int64_t begin, const W* weights,
                                                const NormRow<W>& row, W* to_weights) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      if (!has(k)) continue;
      x[k].stay_packed();
      g[k].stay_packed();
      v[k].stay_packed();
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const W normalized = row.normalized(widen(x[k].get(i))), tangent = widen(v[k].get(i));
        const W signal = widen(g[k].get(i)), weight = weights[k * kWidth + i];
        const W along = row.k(tangent, normalized);
        to_weights[k * kWidth + i] += signal * along;
        g[k].set(i, narrow<T>(weight * along));
        x[k].set(i, narrow<T>(row.to_x(tangent, signal * weight, normalized)));
      }
      if (at.to_g) store_pack<kWidth>(at.to_g + begin, lane + k * threads, g[k]);
      if (at.to_x) store_pack<kWidth>(at.to_x + begin, lane + k * threads, x[k]);
    }
  }
};

template <class T, int kWidth>
__device__ __forceinline__ void load_weights(const Wide<T>* weight, int items, int lane, int threads,
                                             Wide<T>* weights) {
#pragma unroll
  for (int k = 0; k < kPacks<T, kWidth>; ++k) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const int64_t at = int64_t(lane + k * threads) * kWidth + i;
      weights[k * kWidth + i] = weight && lane + k * threads < items ? weight[at] : Wide<T>(1);
    }
  }
}

template <class T, int kWidth>
__device__ __forceinline__ void store_sums(Wide<T>* partials, int items, int lane, int threads,
                                           const Wide<T>* sums) {
#pragma unroll
  for (int k = 0; k < kPacks<T, kWidth>; ++k) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (lane + k * threads < items)
        partials[int64_t(lane + k * threads) * kWidth + i] = sums[k * kWidth + i];
    }
  }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    norm_rows(const __grid_constant__ NormTensors<T> at, int64_t workers, int64_t batch, int64_t groups,
              int64_t per_chunk, int row_items, int row_threads) {
  using W = Wide<T>;
  const int lane = int(threadIdx.x) % row_threads;
  const int64_t worker =
      int64_t(blockIdx.x) * (int(blockDim.x) / row_threads) + int(threadIdx.x) / row_threads;
  const int64_t chunk = worker / groups, group = worker % groups, size = int64_t(row_items) * kWidth;
  W weights[kHeld<T>], sums[kHeld<T>] = {};
  const int items = worker < workers ? row_items : 0;
  load_weights<T, kWidth>(at.weight ? at.weight + group * size : nullptr, items, lane, row_threads, weights);
  for (int64_t i = 0; i < per_chunk; ++i) {
    const int64_t sample = chunk * per_chunk + i;
    const bool live = items > 0 && sample < batch;
    const int64_t row = live ? sample * groups + group : 0, begin = row * size;
    HeldRow<T, kWidth> held(at, begin, live ? items : 0, lane, row_threads);
    const W mean = at.mean_of(row), rstd = at.rstd[row];
    const NormSums<W> of_row = sums_over_row(held.sums(weights, mean, rstd), row_threads);
    held.store_results(at, begin, weights, {mean, rstd, of_row, W(size), at.mean != nullptr}, sums);
  }
  if (at.partials) store_sums<T, kWidth>(at.partials + worker * size, items, lane, row_threads, sums);
}

// Block i of a split row sums its part; all parts but the last are full.
template <class T, int kWidth>
__global__ void __launch_bounds__(kPartThreads)
    norm_partial_sums(const __grid_constant__ NormTensors<T> at, NormSums<Wide<T>>* part_sums, int64_t groups,
                      int64_t size, int parts) {
  using W = Wide<T>;
  const int64_t row = blockIdx.x / unsigned(parts), start = blockIdx.x % unsigned(parts) * kPartSize<T>;
  const int64_t left = size - start;
  const int items = int(left < kPartSize<T> ? left : kPartSize<T>) / kWidth, lane = int(threadIdx.x);
  W weights[kHeld<T>];
  load_weights<T, kWidth>(at.weight ? at.weight + row % groups * size + start : nullptr, items, lane,
                          kPartThreads, weights);
  const HeldRow<T, kWidth> held(at, row * size + start, items, lane, kPartThreads);
  const NormSums<W> sums = sums_over_row(held.sums(weights, at.mean_of(row), at.rstd[row]), kPartThreads);
  if (threadIdx.x == 0) part_sums[blockIdx.x] = sums;
}

// A block has one part, of one group, of the samples of a chunk.
template <class T, int kWidth>
__global__ void __launch_bounds__(kPartThreads)
    norm_part_results(const __grid_constant__ NormTensors<T> at, const NormSums<Wide<T>>* part_sums,
                      int64_t batch, int64_t groups, int64_t per_chunk, int64_t size, int parts) {
  using W = Wide<T>;
  const int64_t worker = blockIdx.x / unsigned(parts), start = blockIdx.x % unsigned(parts) * kPartSize<T>;
  const int64_t chunk = worker / groups, group = worker % groups, left = size - start;
  const int items = int(left < kPartSize<T> ? left : kPartSize<T>) / kWidth, lane = int(threadIdx.x);
  W weights[kHeld<T>], sums[kHeld<T>] = {};
  load_weights<T, kWidth>(at.weight ? at.weight + group * size + start : nullptr, items, lane, kPartThreads,
                          weights);
  for (int64_t sample = chunk * per_chunk; sample < batch && sample < (chunk + 1) * per_chunk; ++sample) {
    const int64_t row = sample * groups + group, begin = row * size + start;
    HeldRow<T, kWidth> held(at, begin, items, lane, kPartThreads);
    NormSums<W> of_row{};
    for (int part = lane; part < parts; part += kPartThreads) of_row.add(part_sums[row * parts + part]);
    of_row = sums_over_row(of_row, kPartThreads);
    held.store_results(at, begin, weights,
                       {at.mean_of(row), at.rstd[row], of_row, W(size), at.mean != nullptr}, sums);
  }
  if (at.partials)
    store_sums<T, kWidth>(at.partials + worker * size + start, items, lane, kPartThreads, sums);
}

// total[i] = Σ partials[chunk, i], in ascending order of the chunks.
template <class W>
__global__ void __launch_bounds__(kPartThreads)
    norm_total(const W* partials, W* total, int64_t chunks, int64_t size) {
  const int64_t i = int64_t(blockIdx.x) * kPartThreads + int(threadIdx.x);
  if (i >= size) return;
  W sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partials[chunk * size + i];
  total[i] = sum;
}

template <class T, int kWidth>
void run(const Launch& launch, const NormTensors<T>& at, NormSums<Wide<T>>* part_sums, const NormShape& shape,
         int64_t chunks) {
  const int64_t size = shape.channels / shape.groups * shape.positions, workers = chunks * shape.groups;
  const int64_t per_chunk = ceil_div(shape.batch, chunks), items = size / kWidth;
  if (size > kHeld<T> * kRowThreads) {
    const int64_t parts = ceil_div(size, kPartSize<T>);
    launch(norm_partial_sums<T, kWidth>, shape.batch * shape.groups * parts, kPartThreads, at, part_sums,
           shape.groups, size, int(parts));
    launch(norm_part_results<T, kWidth>, workers * parts, kPartThreads, at, part_sums, shape.batch,
           shape.groups, per_chunk, size, int(parts));
    return;
  }
  int row_threads = 1;
  while (row_threads < kWarp && row_threads * kPacks<T, kWidth> < items) row_threads *= 2;
  int block_threads = kBlockThreads;
  if (row_threads * kPacks<T, kWidth> < items) {
    block_threads = row_threads = int(ceil_div(items, kPacks<T, kWidth> * kWarp)) * kWarp;
  }
  const int64_t blocks = ceil_div(workers, block_threads / row_threads);
  launch(norm_rows<T, kWidth>, blocks, block_threads, at, workers, shape.batch, shape.groups, per_chunk,
         int(items), row_threads);
}

}  // namespace

int64_t norm_workspace(int64_t rows, int64_t size, int code) {
  int64_t parts = 0;
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    if (size > kHeld<T> * kRowThreads) parts = ceil_div(size, kPartSize<T>);
  });
  return rows * parts * 5;
}

void norm_double_backward(const NormAddresses& addresses, int64_t partials, int64_t workspace, int64_t chunks,
                          int code, const NormShape& shape, void* stream) {
  if (shape.batch * shape.channels * shape.positions == 0) return;
  const Launch launch{"norm_double_backward", static_cast<cudaStream_t>(stream)};
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    using W = Wide<T>;
    constexpr int kWidth = kPackWidth<T>;
    const NormTensors<T> at{
        pointer<T>(addresses.x),    pointer<T>(addresses.g),    pointer<T>(addresses.v),
        pointer<W>(addresses.mean), pointer<W>(addresses.rstd), pointer<W>(addresses.weight),
        pointer<T>(addresses.to_g), pointer<T>(addresses.to_x), pointer<W>(partials)};
    auto* part_sums = pointer<NormSums<W>>(workspace);
    const int64_t sample = shape.channels * shape.positions;
    if (sample / shape.groups % kWidth == 0 && begin_packs(at.x, at.g, at.v, at.to_g, at.to_x)) {
      run<T, kWidth>(launch, at, part_sums, shape, chunks);
    } else {
      run<T, 1>(launch, at, part_sums, shape, chunks);
    }
    if (partials) {
      launch(norm_total<W>, ceil_div(sample, kPartThreads), kPartThreads, at.partials,
             pointer<W>(addresses.to_weight), chunks, sample);
    }
  });
}

}  // namespace wgan_fast
