// One launch over a list of tensors of any sizes: the engine of clip_weights and the optimizer steps.
//
// The table of addresses travels by value, as a kernel parameter: no copy to the device, no memory to keep,
// and a CUDA graph that captures the launch holds the table itself. Every block works on one chunk of one
// tensor and finds it by bisection over the tensors' first blocks, so a table holds tensors only, however
// many chunks.
//
// An op is a struct of constants with
//   Value                                  the dtype of the tensors
//   kArrays, written(array)                how many tensors are walked in parallel, and which of them change
//   kUnroll                                packs that a thread loads before it stores the first
//   PerTensor                              the data per tensor, empty or a few numbers
//   prepare(per_tensor)                    called once per block by all its threads; its result is passed to
//   operator()(Value (&values)[kArrays], prepared)   which changes one element of each array
#pragma once

#include <algorithm>
#include <vector>

#include "launch.cuh"

namespace wgan_fast {

constexpr int kMultiTensorThreads = 256;
// Kernel parameters may take 4 KB on every driver (32 KB on recent ones).
constexpr int kParameterBytes = 4096;
// Chunks are halved until a list makes this many blocks: four per multiprocessor of an H100, which has 132,
// and a 2.8 M parameter critic becomes 675 blocks of 4096 values.
constexpr int64_t kEnoughBlocks = 4 * 132;
constexpr int kSmallestChunkPacks = kMultiTensorThreads;
constexpr int kLargestChunkPacks = 16 * kMultiTensorThreads;

template <class Op>
struct TensorTable {
  static constexpr int kTensorBytes = Op::kArrays * int(sizeof(void*)) +
                                      int(sizeof(int64_t) + sizeof(int32_t) + sizeof(typename Op::PerTensor));
  static constexpr int kCapacity = (kParameterBytes - int(sizeof(Op)) - 64) / kTensorBytes;

  void* addresses[Op::kArrays][kCapacity];
  int64_t sizes[kCapacity];
  typename Op::PerTensor per_tensor[kCapacity];
  int32_t first_block[kCapacity];
  int32_t count;
  int32_t chunk;  // elements, a multiple of the pack width
};

template <int kWidth, class Op, class Prepared>
__device__ __forceinline__ void walk_packs(typename Op::Value* const (&arrays)[Op::kArrays], int packs,
                                           const Op& op, const Prepared& prepared) {
  using T = typename Op::Value;
#pragma unroll 1
  for (int first = int(threadIdx.x); first < packs; first += kMultiTensorThreads * Op::kUnroll) {
    Pack<T, kWidth> loaded[Op::kUnroll][Op::kArrays];
#pragma unroll
    for (int u = 0; u < Op::kUnroll; ++u) {
      const int pack = first + u * kMultiTensorThreads;
#pragma unroll
      for (int array = 0; array < Op::kArrays; ++array) {
        if (pack < packs) loaded[u][array] = load_pack<kWidth>(arrays[array], pack);
      }
    }
#pragma unroll
    for (int u = 0; u < Op::kUnroll; ++u) {
      const int pack = first + u * kMultiTensorThreads;
      if (pack >= packs) break;
#pragma unroll
      for (int lane = 0; lane < kWidth; ++lane) {
        T values[Op::kArrays];
#pragma unroll
        for (int array = 0; array < Op::kArrays; ++array) values[array] = loaded[u][array].get(lane);
        op(values, prepared);
#pragma unroll
        for (int array = 0; array < Op::kArrays; ++array) loaded[u][array].set(lane, values[array]);
      }
#pragma unroll
      for (int array = 0; array < Op::kArrays; ++array) {
        if (Op::written(array)) store_pack<kWidth>(arrays[array], pack, loaded[u][array]);
      }
    }
  }
}

template <class Op>
__global__ void __launch_bounds__(kMultiTensorThreads)
    multi_tensor_kernel(const __grid_constant__ TensorTable<Op> table, const __grid_constant__ Op op) {
  using T = typename Op::Value;
  int tensor = 0;
  for (int above = table.count; above - tensor > 1;) {
    const int middle = (tensor + above) / 2;
    (table.first_block[middle] <= int(blockIdx.x) ? tensor : above) = middle;
  }
  const auto prepared = op.prepare(table.per_tensor[tensor]);

  const int64_t begin = int64_t(int(blockIdx.x) - table.first_block[tensor]) * table.chunk;
  const int64_t left = table.sizes[tensor] - begin;
  const int count = left < table.chunk ? int(left) : table.chunk;
  T* arrays[Op::kArrays];
  bool packed = true;
#pragma unroll
  for (int array = 0; array < Op::kArrays; ++array) {
    arrays[array] = static_cast<T*>(table.addresses[array][tensor]) + begin;
    packed = packed && begin_packs(arrays[array]);
  }

  int done = 0;
  if (packed) {
    const int packs = count / kPackWidth<T>;
    walk_packs<kPackWidth<T>>(arrays, packs, op, prepared);
    done = packs * kPackWidth<T>;
#pragma unroll
    for (int array = 0; array < Op::kArrays; ++array) arrays[array] += done;
  }
  walk_packs<1>(arrays, count - done, op, prepared);
}

// One tensor of a list with its companions (gradient, moments), all of one size and dtype.
template <class Op>
struct TensorEntry {
  int64_t size;
  void* addresses[Op::kArrays];
  typename Op::PerTensor per_tensor;
};

template <class Op>
void multi_tensor_apply(const Launch& launch, const Op& op, const std::vector<TensorEntry<Op>>& entries) {
  int64_t total = 0;
  for (const TensorEntry<Op>& entry : entries) total += entry.size;
  constexpr int kWidth = kPackWidth<typename Op::Value>;
  int32_t chunk = kLargestChunkPacks * kWidth;
  while (chunk > kSmallestChunkPacks * kWidth && total / chunk < kEnoughBlocks) chunk /= 2;

  static_assert(sizeof(TensorTable<Op>) + sizeof(Op) <= kParameterBytes, "the table is a kernel parameter");
  TensorTable<Op> table;
  table.chunk = chunk;
  table.count = 0;
  int64_t blocks = 0;
  const auto launch_table = [&] {
    if (table.count > 0) launch(multi_tensor_kernel<Op>, blocks, kMultiTensorThreads, table, op);
    table.count = 0;
    blocks = 0;
  };
  for (const TensorEntry<Op>& entry : entries) {
    if (entry.size == 0) continue;
    for (int array = 0; array < Op::kArrays; ++array)
      table.addresses[array][table.count] = entry.addresses[array];
    table.sizes[table.count] = entry.size;
    table.per_tensor[table.count] = entry.per_tensor;
    table.first_block[table.count] = int32_t(blocks);
    blocks += ceil_div(entry.size, chunk);
    if (++table.count == TensorTable<Op>::kCapacity) launch_table();
  }
  launch_table();
}

}  // namespace wgan_fast
