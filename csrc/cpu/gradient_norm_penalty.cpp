// The penalty on the norms of a critic's input gradients, and its slope, from one read of the gradients.
//
//   n_b = ‖g_b‖,  e_b = n_b - target,  P = weight mean_b e_b²,  dP/dg_b = (2 weight / B) e_b g_b / n_b
//
// B and the weight are known before the backward pass, so value and slope are computed together: N values
// read, N written, against about 7N for the textbook lines. A row is read again for the slope while it is
// still in cache.
//
// Order of summation: a row is cut into segments of a fixed size, a segment is summed in kLanes interleaved
// lanes, lanes are added pairwise, segments and rows in ascending order. Neither the number of threads nor
// the instruction set changes it, so the same input gives the same bits.
#include <limits>

#include "engine.h"
#include "kernels.h"

namespace wgan_fast {
namespace {

constexpr int64_t kSegment = 16384;
constexpr int64_t kLanes = 64;

template <class T>
WGAN_FAST_INLINE Wide<T> sum_of_squares(const T* values, int64_t count) {
  using W = Wide<T>;
  W lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const W value = widen(values[i + lane]);
      lanes[lane] += value * value;
    }
  }
  for (int64_t lane = 0; i + lane < count; ++lane) {
    const W value = widen(values[i + lane]);
    lanes[lane] += value * value;
  }
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

template <class T>
WGAN_FAST_INLINE void scale_row(const T* gradients, T* slope, int64_t count, Wide<T> coefficient) {
  for (int64_t i = 0; i < count; ++i) put(slope[i], coefficient * widen(gradients[i]));
}

// Few values per row (points in the plane): the lanes would cost more than the sum.
template <class T>
WGAN_FAST_INLINE Wide<T> short_sum_of_squares(const T* values, int64_t count) {
  Wide<T> sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += widen(values[i]) * widen(values[i]);
  return sum;
}

template <class T>
WGAN_FAST_INLINE void rows_of(const T* gradients, T* slope, Wide<T>* norms, int64_t row_size, int64_t begin,
                              int64_t end, const PenaltyConstants<Wide<T>>& constants) {
  using W = Wide<T>;
  for (int64_t row = begin; row < end; ++row) {
    const T* values = gradients + row * row_size;
    W sum = 0;
    if (row_size < kLanes) {
      sum = short_sum_of_squares(values, row_size);
    } else {
      for (int64_t i = 0; i < row_size; i += kSegment) {
        sum += sum_of_squares(values + i, std::min(kSegment, row_size - i));
      }
    }
    norms[row] = std::sqrt(sum);
    if (slope)
      scale_row(values, slope + row * row_size, row_size, penalty_coefficient(norms[row], constants));
  }
}

#define WGAN_FAST_PENALTY(T)                                                                               \
  WGAN_FAST_CLONES void penalise(const T* gradients, T* slope, Wide<T>* norms, int64_t row_size,           \
                                 int64_t begin, int64_t end, const PenaltyConstants<Wide<T>>& constants) { \
    rows_of(gradients, slope, norms, row_size, begin, end, constants);                                     \
  }                                                                                                        \
  WGAN_FAST_CLONES Wide<T> segment_sum(const T* values, int64_t count) {                                   \
    return sum_of_squares(values, count);                                                                  \
  }                                                                                                        \
  WGAN_FAST_CLONES void scale(const T* gradients, T* slope, int64_t count, Wide<T> coefficient) {          \
    scale_row(gradients, slope, count, coefficient);                                                       \
  }
WGAN_FAST_PENALTY(float)
WGAN_FAST_PENALTY(double)
WGAN_FAST_PENALTY(bf16)
WGAN_FAST_PENALTY(fp16)

// Fewer rows than threads, and long ones: the segments of a row go to different threads, their sums are added
// in ascending order, then the slope is written in a second region.
template <class T>
void split_rows(const T* gradients, T* slope, Wide<T>* norms, int64_t batch, int64_t row_size, int threads,
                const PenaltyConstants<Wide<T>>& constants) {
  const int64_t segments = (row_size + kSegment - 1) / kSegment;
  const auto size_of = [&](int64_t segment) { return std::min(kSegment, row_size - segment * kSegment); };
  std::vector<Wide<T>> sums(size_t(batch * segments));
  parallel_shares(batch * segments, 1, threads, true, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / segments, segment = i % segments;
      sums[size_t(i)] = segment_sum(gradients + row * row_size + segment * kSegment, size_of(segment));
    }
  });
  for (int64_t row = 0; row < batch; ++row) {
    Wide<T> sum = 0;
    for (int64_t segment = 0; segment < segments; ++segment) sum += sums[size_t(row * segments + segment)];
    norms[row] = std::sqrt(sum);
  }
  if (!slope) return;
  parallel_shares(batch * segments, 1, threads, true, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / segments, segment = i % segments, offset = row * row_size + segment * kSegment;
      scale(gradients + offset, slope + offset, size_of(segment), penalty_coefficient(norms[row], constants));
    }
  });
}

template <class W>
void reduce(const W* norms, W* value, int64_t batch, const PenaltyConstants<W>& constants,
            Reduction reduction) {
  double sum = 0;
  for (int64_t row = 0; row < batch; ++row) {
    const W penalty = penalty_value<W>(norms[row], constants);
    if (reduction == Reduction::kNone) value[row] = penalty;
    sum += penalty;
  }
  if (reduction == Reduction::kSum) *value = W(sum);
  // The mean over no samples is NaN, as in torch.
  if (reduction == Reduction::kMean)
    *value = batch ? W(sum / double(batch)) : std::numeric_limits<W>::quiet_NaN();
}

}  // namespace

void gradient_norm_penalty(int64_t gradients, int64_t slope, int64_t norms, int64_t value, int64_t batch,
                           int64_t total, int code, PenaltyOptions options, Reduction reduction,
                           int threads) {
  options.scale = reduction == Reduction::kMean && batch ? 1.0 / double(batch) : 1.0;
  const int64_t row_size = batch ? total / batch : 0;
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    using W = Wide<T>;
    const T* in = pointer<const T>(gradients);
    T* out = pointer<T>(slope);
    W* lengths = pointer<W>(norms);
    const PenaltyConstants<W> constants(options);
    if (threads > 1 && batch < 2 * threads && row_size >= 2 * kSegment) {
      split_rows(in, out, lengths, batch, row_size, threads, constants);
    } else {
      parallel_shares(batch, 1, threads, total >= kSerialBelow, [&](int64_t begin, int64_t end) {
        penalise(in, out, lengths, row_size, begin, end, constants);
      });
    }
    reduce(lengths, pointer<W>(value), batch, constants, reduction);
  });
}

}  // namespace wgan_fast
