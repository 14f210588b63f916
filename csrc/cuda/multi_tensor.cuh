// One launch over a list of tensors of any sizes: the engine of clip_weights and the optimizer steps.
//
// The table of addresses travels by value, as a kernel parameter: no copy to the device, no memory to keep,
// and a CUDA graph that captures the launch holds the table itself. Every block works on one chunk of one
// tensor and finds it by bisection over the tensors' first blocks, so a table holds tensors only, however
// many chunks. Chunks are as large as it takes for all blocks to run at once: no second wave of a few blocks,
// for which the device would be mostly idle.
//
// An op is a struct of constants with
//   Value                                  the dtype of the tensors
//   kArrays, written(array)                how many tensors are walked in parallel, and which of them change
//   kUnroll                                packs that a thread loads before it stores the first
//   PerTensor                              what it has to know of each tensor, empty or a few numbers
//   prepare(per_tensor)                    called once a block by all its threads, after their first loads of
//                                          packs are on their way; what it returns goes to
//   operator()(Value (&values)[kArrays], prepared)   which changes one element of each array
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <vector>

#include "launch.cuh"

namespace wgan_fast {

constexpr int kMultiTensorThreads = 256;
// Kernel parameters may take 4 KB on every driver (32 KB on recent ones).
constexpr int kParameterBytes = 4096;
// Devices whose number of blocks is remembered.
constexpr int kKnownDevices = 64;

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

// What a thread loads before it stores: kUnroll packs of each array.
template <int kWidth, class Op>
struct HeldPacks {
  using T = typename Op::Value;
  Pack<T, kWidth> held[Op::kUnroll][Op::kArrays];

  __device__ __forceinline__ void load(T* const (&arrays)[Op::kArrays], int first, int packs) {
#pragma unroll
    for (int u = 0; u < Op::kUnroll; ++u) {
      const int pack = first + u * kMultiTensorThreads;
#pragma unroll
      for (int array = 0; array < Op::kArrays; ++array) {
        if (pack < packs) held[u][array] = load_pack<kWidth>(arrays[array], pack);
      }
    }
  }

  template <class Prepared>
  __device__ __forceinline__ void store_updated(T* const (&arrays)[Op::kArrays], int first, int packs,
                                                const Op& op, const Prepared& prepared) {
#pragma unroll
    for (int u = 0; u < Op::kUnroll; ++u) {
      const int pack = first + u * kMultiTensorThreads;
      if (pack >= packs) break;
#pragma unroll
      for (int lane = 0; lane < kWidth; ++lane) {
        T values[Op::kArrays];
#pragma unroll
        for (int array = 0; array < Op::kArrays; ++array) values[array] = held[u][array].get(lane);
        op(values, prepared);
#pragma unroll
        for (int array = 0; array < Op::kArrays; ++array) held[u][array].set(lane, values[array]);
      }
#pragma unroll
      for (int array = 0; array < Op::kArrays; ++array) {
        if (Op::written(array)) store_pack<kWidth>(arrays[array], pack, held[u][array]);
      }
    }
  }

  // Goes on from the packs that are held: those of threadIdx.x.
  template <class Prepared>
  __device__ __forceinline__ void walk(T* const (&arrays)[Op::kArrays], int packs, const Op& op,
                                       const Prepared& prepared) {
#pragma unroll 1
    for (int first = int(threadIdx.x); first < packs;) {
      store_updated(arrays, first, packs, op, prepared);
      first += kMultiTensorThreads * Op::kUnroll;
      if (first >= packs) return;
      load(arrays, first, packs);
    }
  }
};

template <class Op>
__global__ void __launch_bounds__(kMultiTensorThreads)
    multi_tensor_kernel(const __grid_constant__ TensorTable<Op> table, const __grid_constant__ Op op) {
  using T = typename Op::Value;
  int tensor = 0;
  for (int above = table.count; above - tensor > 1;) {
    const int middle = (tensor + above) / 2;
    (table.first_block[middle] <= int(blockIdx.x) ? tensor : above) = middle;
  }
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

  constexpr int kWidth = kPackWidth<T>;
  const int packs = packed ? count / kWidth : 0;
  HeldPacks<kWidth, Op> held;
  held.load(arrays, int(threadIdx.x), packs);
  const auto prepared = op.prepare(table.per_tensor[tensor]);
  held.walk(arrays, packs, op, prepared);

#pragma unroll
  for (int array = 0; array < Op::kArrays; ++array) arrays[array] += packs * kWidth;
  HeldPacks<1, Op> rest;
  rest.load(arrays, int(threadIdx.x), count - packs * kWidth);
  rest.walk(arrays, count - packs * kWidth, op, prepared);
}

// One tensor of a list with its companions (gradient, moments), all of one size and dtype.
template <class Op>
struct TensorEntry {
  int64_t size;
  void* addresses[Op::kArrays];
  typename Op::PerTensor per_tensor;
};

// How many blocks of the op's kernel the current device runs at once. It is asked once; a device has one
// answer, so it does not matter which of two threads stores it.
template <class Op>
int64_t resident_blocks(const Launch& launch) {
  static std::array<std::atomic<int>, kKnownDevices> known{};
  int device = 0;
  launch.check(cudaGetDevice(&device));
  const bool kept = device < kKnownDevices;
  int blocks = kept ? known[size_t(device)].load(std::memory_order_relaxed) : 0;
  if (blocks == 0) {
    int multiprocessors = 0;
    launch.check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    launch.check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, multi_tensor_kernel<Op>,
                                                               kMultiTensorThreads, 0));
    blocks *= multiprocessors;
    if (kept) known[size_t(device)].store(blocks, std::memory_order_relaxed);
  }
  return blocks;
}

// Elements of a chunk, whole packs for all threads of a block. A tensor's last chunk may be short, so a list
// makes one block per tensor more than its elements do: that many are set aside, up to half of all.
inline int32_t chunk_size(int64_t total, int64_t tensors, int64_t resident, int width) {
  const int64_t blocks = std::max<int64_t>(resident - std::min(tensors, resident / 2), 1);
  const int64_t step = kMultiTensorThreads * width;
  const int64_t largest = std::numeric_limits<int32_t>::max() / step;
  return int32_t(std::clamp<int64_t>(ceil_div(ceil_div(total, blocks), step), 1, largest) * step);
}

template <class Op>
void multi_tensor_apply(const Launch& launch, const Op& op, const std::vector<TensorEntry<Op>>& entries) {
  static_assert(sizeof(TensorTable<Op>) + sizeof(Op) <= kParameterBytes, "the table is a kernel parameter");
  TensorTable<Op> table;
  for (size_t first = 0; first < entries.size(); first += TensorTable<Op>::kCapacity) {
    const size_t end = std::min(entries.size(), first + TensorTable<Op>::kCapacity);
    int64_t total = 0;
    for (size_t i = first; i < end; ++i) total += entries[i].size;
    if (total == 0) continue;
    table.chunk =
        chunk_size(total, int64_t(end - first), resident_blocks<Op>(launch), kPackWidth<typename Op::Value>);
    table.count = 0;
    int64_t blocks = 0;
    for (size_t i = first; i < end; ++i) {
      const TensorEntry<Op>& entry = entries[i];
      if (entry.size == 0) continue;
      for (int array = 0; array < Op::kArrays; ++array)
        table.addresses[array][table.count] = entry.addresses[array];
      table.sizes[table.count] = entry.size;
      table.per_tensor[table.count] = entry.per_tensor;
      table.first_block[table.count++] = int32_t(blocks);
      blocks += ceil_div(entry.size, table.chunk);
    }
    launch(multi_tensor_kernel<Op>, blocks, kMultiTensorThreads, table, op);
  }
}

}  // namespace wgan_fast
