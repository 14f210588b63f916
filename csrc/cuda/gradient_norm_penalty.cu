// The penalty on the norms of a critic's input gradients, and its slope, from one read of the gradients.
//
//   n_b = ‖g_b‖,  e_b = n_b - target,  P = weight mean_b e_b²,  dP/dg_b = (2 weight / B) e_b g_b / n_b
//
// B and the weight are known before the backward pass, so value and slope are computed together: N values
// read, N written, against about 7N for the textbook lines.
//
// Rows that fit into the registers of one block are read once: part of a warp, a warp or a block holds a row,
// sums its squares and writes the slope from what it holds. Longer rows are split over blocks: a launch for
// the partial sums, one that adds them to norms, and one for the slopes, which reads the norms. Values of
// rows are summed by the block that has them, and by one more launch of a single block if there are several.
//
// The order of every sum depends on the shape and the alignment only: the same input gives the same bits.
#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "row_parts.cuh"

namespace wgan_fast {
namespace {

// Up to so many items for each of its threads, a row is shared by part of a warp; so many partial sums of a
// split row are added by a thread, until a block has no more threads.
constexpr int kItemsOfShortRow = 4;

// Where norms and row values go: the values to one address a row, or summed over the rows of a block to one
// address a block.
template <class W>
struct Results {
  W* norms;
  W* of_rows;
  W* of_blocks;
  W divisor;

  // Called by all threads of the block, which share its rows in groups of row_threads.
  __device__ __forceinline__ void store(W norm, int64_t row, bool exists, int row_threads,
                                        const PenaltyConstants<W>& constants) const {
    W value = 0;
    if (exists && int(threadIdx.x) % row_threads == 0) {
      value = penalty_value(norm, constants);
      norms[row] = norm;
      if (of_rows) of_rows[row] = value;
    }
    if (!of_blocks) return;
    if (row_threads < int(blockDim.x)) value = sum_over_row(value, int(blockDim.x));
    if (threadIdx.x == 0) of_blocks[blockIdx.x] = value / divisor;
  }
};

__device__ __forceinline__ int64_t row_of_thread(int row_threads) {
  return int64_t(blockIdx.x) * (int(blockDim.x) / row_threads) + int(threadIdx.x) / row_threads;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kMostThreads)
    whole_rows(const T* gradients, T* slope, Results<Wide<T>> results, int64_t batch, int row_items,
               int row_threads, const __grid_constant__ PenaltyConstants<Wide<T>> constants) {
  using W = Wide<T>;
  const int lane = int(threadIdx.x) % row_threads;
  const int64_t row = row_of_thread(row_threads);
  const bool exists = row < batch;
  const int items = exists ? row_items : 0;
  const int64_t begin = row * row_items * kWidth;

  HeldItems<T, kWidth> held(gradients + begin, items, lane, row_threads);
  const W norm = std::sqrt(sum_over_row(held.sum_of_squares(), row_threads));
  if (slope) held.store_scaled(slope + begin, penalty_coefficient(norm, constants));
  results.store(norm, row, exists, row_threads, constants);
}

// Block i of a split row sums the squares of its part; all parts but the last are full.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    partial_sums(const T* gradients, Wide<T>* partials, int64_t row_items, int parts) {
  const int64_t row = blockIdx.x / unsigned(parts), part = blockIdx.x % unsigned(parts);
  const int64_t begin = part * kPartItems<T, kWidth>, left = row_items - begin;
  const int items = left < kPartItems<T, kWidth> ? int(left) : kPartItems<T, kWidth>;
  const HeldItems<T, kWidth> held(gradients + (row * row_items + begin) * kWidth, items, int(threadIdx.x),
                                  kThreads);
  const Wide<T> sum = sum_over_row(held.sum_of_squares(), kThreads);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// Norms and values of split rows: adds the partial sums, each read once.
template <class W>
__global__ void __launch_bounds__(kMostThreads)
    split_norms(const W* partials, Results<W> results, int64_t batch, int parts, int row_threads,
                const __grid_constant__ PenaltyConstants<W> constants) {
  const int64_t row = row_of_thread(row_threads);
  const bool exists = row < batch;
  W sum = 0;
  for (int i = int(threadIdx.x) % row_threads; exists && i < parts; i += row_threads) {
    sum += partials[row * parts + i];
  }
  results.store(std::sqrt(sum_over_row(sum, row_threads)), row, exists, row_threads, constants);
}

// Block i scales a part of a row whose norm is known.
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 4)
    split_slopes(const T* gradients, T* slope, const Wide<T>* norms, int64_t row_items, int parts,
                 const __grid_constant__ PenaltyConstants<Wide<T>> constants) {
  // The parts read last by partial_sums come first: they may still be in the cache.
  const unsigned block = gridDim.x - 1 - blockIdx.x;
  const int64_t row = block / unsigned(parts), part = block % unsigned(parts);
  const int64_t begin = part * kPartItems<T, kWidth>, left = row_items - begin;
  const int items = left < kPartItems<T, kWidth> ? int(left) : kPartItems<T, kWidth>;
  const int64_t offset = (row * row_items + begin) * kWidth;
  HeldItems<T, kWidth> held(gradients + offset, items, int(threadIdx.x), kThreads);
  held.store_scaled(slope + offset, penalty_coefficient(norms[row], constants));
}

// One block adds the partial results of the others, and divides.
template <class W>
__global__ void __launch_bounds__(kMostThreads)
    reduce_values(const W* values, int64_t count, W* value, W divisor) {
  W sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kMostThreads) sum += values[i];
  sum = sum_over_row(sum, kMostThreads);
  if (threadIdx.x == 0) *value = sum / divisor;
}

// How a shape is laid out over blocks.
template <class T, int kWidth>
struct Plan {
  int64_t row_items;
  bool split;
  int parts;          // split rows: blocks that share one
  int row_threads;    // threads that share a row, or the partial sums of a split one
  int block_threads;  // a multiple of row_threads and of a warp

  Plan(int64_t batch, int64_t row_size) : row_items(row_size / kWidth) {
    split = row_items > kMostRowItems<T, kWidth>;
    parts = int(ceil_div(row_items, kPartItems<T, kWidth>));
    if (!split && row_items > kItemsOfShortRow * kWarp) {
      block_threads = row_threads = int(ceil_div(row_items, kItems<T, kWidth> * kWarp)) * kWarp;
      return;
    }
    const int64_t items = split ? parts : row_items;
    const int most = split ? kMostThreads : kThreads;
    row_threads = 1;
    while (row_threads < most && row_threads * kItemsOfShortRow < items) row_threads *= 2;
    const int64_t needed = ceil_div(batch * row_threads, kWarp) * kWarp;
    block_threads = int(std::min<int64_t>(most, std::max<int64_t>(kWarp, needed)));
  }

  // Of the launch that finds the norms.
  int64_t blocks(int64_t batch) const { return ceil_div(batch, block_threads / row_threads); }
  // One value a block, and the partial sums.
  int64_t workspace(int64_t batch) const { return blocks(batch) + (split ? batch * parts : 0); }
};

template <class T, int kWidth>
struct Penalty {
  using W = Wide<T>;
  const Launch& launch;
  const T* gradients;
  T* slope;
  W *norms, *value, *workspace;
  int64_t batch;
  PenaltyConstants<W> constants;
  Reduction reduction;

  void run(int64_t row_size) const {
    const Plan<T, kWidth> plan(batch, row_size);
    const W divisor = reduction == Reduction::kMean ? W(batch) : W(1);
    const bool per_row = reduction == Reduction::kNone;
    const int64_t blocks = plan.blocks(batch);
    const bool at_once = blocks == 1;
    W* of_blocks = at_once ? value : workspace;
    const Results<W> results{norms, per_row ? value : nullptr, per_row ? nullptr : of_blocks,
                             at_once ? divisor : W(1)};
    if (plan.split) {
      const int64_t parts = batch * plan.parts;
      W* partials = workspace + blocks;
      launch(partial_sums<T, kWidth>, parts, kThreads, gradients, partials, plan.row_items, plan.parts);
      launch(split_norms<W>, blocks, plan.block_threads, partials, results, batch, plan.parts,
             plan.row_threads, constants);
      if (slope) {
        launch(split_slopes<T, kWidth>, parts, kThreads, gradients, slope, norms, plan.row_items, plan.parts,
               constants);
      }
    } else if (blocks > 0) {
      launch(whole_rows<T, kWidth>, blocks, plan.block_threads, gradients, slope, results, batch,
             int(plan.row_items), plan.row_threads, constants);
    }
    if (!per_row && !at_once) reduce(workspace, blocks, divisor);
  }

  void reduce(const W* values, int64_t count, W divisor) const {
    launch(reduce_values<W>, 1, kMostThreads, values, count, value, divisor);
  }
};

// Rows of whole packs: row sizes and addresses both allow 16-byte accesses.
template <class T>
bool rows_are_packed(int64_t row_size, int64_t gradients, int64_t slope) {
  return row_size % kPackWidth<T> == 0 && begin_packs(pointer<T>(gradients), pointer<T>(slope));
}

}  // namespace

int64_t penalty_workspace(int64_t batch, int64_t row_size, int code) {
  int64_t needed = 0;
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kWidth = kPackWidth<T>;
    needed = Plan<T, 1>(batch, row_size).workspace(batch);
    if (row_size % kWidth == 0) needed = std::max(needed, Plan<T, kWidth>(batch, row_size).workspace(batch));
  });
  return needed;
}

void gradient_norm_penalty(int64_t gradients, int64_t slope, int64_t norms, int64_t value, int64_t workspace,
                           int64_t batch, int64_t total, int code, PenaltyOptions options,
                           Reduction reduction, void* stream) {
  const Launch launch{"gradient_norm_penalty", static_cast<cudaStream_t>(stream)};
  options.scale = reduction == Reduction::kMean && batch ? 1.0 / double(batch) : 1.0;
  const int64_t row_size = batch ? total / batch : 0;
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    using W = Wide<T>;
    constexpr int kWidth = kPackWidth<T>;
    const T* in = pointer<T>(gradients);
    T* out = pointer<T>(slope);
    W *lengths = pointer<W>(norms), *result = pointer<W>(value), *scratch = pointer<W>(workspace);
    if (rows_are_packed<T>(row_size, gradients, slope)) {
      Penalty<T, kWidth>{launch, in, out, lengths, result, scratch, batch, options, reduction}.run(row_size);
    } else {
      Penalty<T, 1>{launch, in, out, lengths, result, scratch, batch, options, reduction}.run(row_size);
    }
  });
}

}  // namespace wgan_fast
