// How the CPU kernels walk over memory: one parallel region over a list of blocks of any number and sizes.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "dtypes.h"

// One binary for every x86-64: the loader picks the widest of these that the machine supports. The attribute
// does not apply to templates, so each kernel is a template, inlined into one plain function per dtype that
// carries it.
#if defined(__linux__) && defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WGAN_FAST_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WGAN_FAST_CLONES
#endif
#define WGAN_FAST_INLINE inline __attribute__((always_inline))
#define WGAN_FAST_INLINE_LAMBDA __attribute__((always_inline))

namespace wgan_fast {

// Below this many elements the start of a parallel region costs more than it saves.
constexpr int64_t kSerialBelow = 32768;
// Shares begin at multiples of this many elements, so that two threads never write to one cache line.
constexpr int64_t kShareAlignment = 64;

// slot = narrow<T>(value), through the bits of a 16-bit float: GCC vectorises neither loads nor stores of
// structs, which made bf16 a hundred times slower than fp32. (widen() takes references for the same reason.)
template <class T>
WGAN_FAST_INLINE void put(T& slot, Wide<T> value) {
  slot = narrow<T>(value);
}
WGAN_FAST_INLINE void put(bf16& slot, float value) { slot.bits = narrow<bf16>(value).bits; }
WGAN_FAST_INLINE void put(fp16& slot, float value) { slot.bits = narrow<fp16>(value).bits; }

// Calls share(begin, end) on each of up to `threads` threads; together they cover [0, total) once.
template <class Share>
void parallel_shares(int64_t total, int64_t alignment, int threads, bool worth_it, Share&& share) {
  if (threads <= 1 || !worth_it) {
    share(int64_t{0}, total);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t count = omp_get_num_threads(), index = omp_get_thread_num();
    const int64_t per_thread = (total + count - 1) / count;
    const int64_t step = (per_thread + alignment - 1) / alignment * alignment;
    const int64_t begin = std::min(total, index * step), end = std::min(total, begin + step);
    if (begin < end) share(begin, end);
  }
}

// Calls body(block, begin, end) so that every element of every block is covered once. The blocks lie end to
// end on one line that is cut into equal shares, one per thread: a list of a hundred tensors costs one
// region, not a hundred.
template <class Body>
void parallel_blocks(const std::vector<int64_t>& sizes, int threads, Body&& body) {
  int64_t total = 0;
  std::vector<int64_t> starts(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    starts[i] = total;
    // Every block begins a new unit of alignment, so an aligned cut of the line is an aligned cut of a block.
    total += (sizes[i] + kShareAlignment - 1) / kShareAlignment * kShareAlignment;
  }
  parallel_shares(total, kShareAlignment, threads, total >= kSerialBelow, [&](int64_t begin, int64_t end) {
    size_t i = size_t(std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin()) - 1;
    for (; i < sizes.size() && starts[i] < end; ++i) {
      const int64_t from = std::max<int64_t>(0, begin - starts[i]), to = std::min(sizes[i], end - starts[i]);
      if (from < to) body(i, from, to);
    }
  });
}

// True where two blocks share memory (tied weights seen through different views): those must not be written
// by two threads at once.
inline bool any_overlap(std::vector<std::pair<uintptr_t, uintptr_t>> ranges) {
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) return true;
  }
  return false;
}

}  // namespace wgan_fast
