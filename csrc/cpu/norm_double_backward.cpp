// The derivatives of a norm's backward, given v (norm_rules.h): 5N values of traffic, three read
// and two written. A row is read for its sums and again, from the cache, for the results.
//
// Two forms: a weight per value of a row (layer and rms norm; group and instance norm over few positions,
// with the weight repeated), and a weight per channel of many positions, whose own gradient is computed from
// the sums.
//
// Order of summation: a row, or a channel of it, is summed in interleaved lanes of 64 bytes, which are added
// pairwise; the weight's gradient is summed over chunks of samples, whose number depends on the shape only,
// and these in ascending order. Neither the number of threads nor the instruction set changes it: same input,
// same bits.
#include "kernels.h"
#include "norm_rules.h"
#include "wide_blocks.h"

namespace wgan_fast {
namespace {

// Values processed together.
constexpr int64_t kBlock = 1024;
// Positions below which a channel is too short for a loop of its own.
constexpr int64_t kShortChannel = 32;
// Maximum number of chunks of samples, and minimum number of samples per chunk.
constexpr int64_t kMostChunks = 64, kFewestSamples = 2;

// Two vectors of 32 bytes per sum: GCC keeps these in registers, but not one of 64 bytes.
template <class W>
struct Lanes {
  static constexpr int64_t kWidth = 32 / int64_t(sizeof(W)), kCount = 2 * kWidth;
  typedef W Vector __attribute__((vector_size(32)));
  struct Sum {
    Vector half[2];
  };
  Sum v{}, vx{}, g{}, gx{}, vg{};
};

template <class W>
WGAN_FAST_INLINE W sum_of(const typename Lanes<W>::Sum& sum) {
  W values[Lanes<W>::kCount];
  memcpy(values, &sum, sizeof values);
  for (int64_t half = Lanes<W>::kCount / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

template <class W>
NormSums<W> sums_of(const Lanes<W>& lanes) {
  return {sum_of<W>(lanes.v), sum_of<W>(lanes.vx), sum_of<W>(lanes.g), sum_of<W>(lanes.gx),
          sum_of<W>(lanes.vg)};
}

// A weight per value, and no weight.
template <class W>
struct Weights {
  const W* values;
  WGAN_FAST_HD W operator[](int64_t i) const { return values[i]; }
};
template <class W>
struct OneWeight {
  W value;
  WGAN_FAST_HD W operator[](int64_t) const { return value; }
};

template <class W>
WGAN_FAST_INLINE void scale(typename Lanes<W>::Vector& values, const Weights<W>& weights, int64_t i) {
  typename Lanes<W>::Vector factors;
  memcpy(&factors, weights.values + i, sizeof factors);
  values *= factors;
}
template <class W>
WGAN_FAST_INLINE void scale(typename Lanes<W>::Vector& values, const OneWeight<W>& weight, int64_t) {
  values *= weight.value;
}

template <class W, class Weight>
WGAN_FAST_INLINE void add_block(const W* x, const W* g, const W* v, const Weight& weight, int64_t size,
                                W mean, W rstd, Lanes<W>& sums) {
  using Vector = typename Lanes<W>::Vector;
  constexpr int64_t kWidth = Lanes<W>::kWidth;
  Lanes<W> lanes = sums;
  int64_t i = 0;
  for (; i + Lanes<W>::kCount <= size; i += Lanes<W>::kCount) {
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t at = i + half * kWidth;
      Vector xs, gs, vs;
      memcpy(&xs, x + at, sizeof xs);
      memcpy(&gs, g + at, sizeof gs);
      memcpy(&vs, v + at, sizeof vs);
      xs = (xs - mean) * rstd;
      scale(gs, weight, at);
      lanes.v.half[half] += vs;
      lanes.vx.half[half] += vs * xs;
      lanes.g.half[half] += gs;
      lanes.gx.half[half] += gs * xs;
      lanes.vg.half[half] += vs * gs;
    }
  }
  for (int64_t lane = 0; i + lane < size; ++lane) {
    const int64_t half = lane / kWidth, slot = lane % kWidth;
    const W normalized = (x[i + lane] - mean) * rstd, weighted = g[i + lane] * weight[i + lane];
    const W tangent = v[i + lane];
    lanes.v.half[half][slot] += tangent;
    lanes.vx.half[half][slot] += tangent * normalized;
    lanes.g.half[half][slot] += weighted;
    lanes.gx.half[half][slot] += weighted * normalized;
    lanes.vg.half[half][slot] += tangent * weighted;
  }
  sums = lanes;
}

// `to_weight`, unless null, has a sum per value, which g k is added to.
template <class W, class Weight>
WGAN_FAST_INLINE void differentiate_block(const W* __restrict__ x, const W* __restrict__ g,
                                          const W* __restrict__ v, const Weight& weight, int64_t size,
                                          const NormRow<W>& row, W* __restrict__ to_g, W* __restrict__ to_x,
                                          W* __restrict__ to_weight) {
  const NormRow<W> r = row;
  if (to_weight != nullptr) {
    for (int64_t i = 0; i < size; ++i) {
      const W normalized = r.normalized(x[i]), k = r.k(v[i], normalized);
      to_weight[i] += g[i] * k;
      to_g[i] = weight[i] * k;
      to_x[i] = r.to_x(v[i], g[i] * weight[i], normalized);
    }
  } else {
    for (int64_t i = 0; i < size; ++i) {
      const W normalized = r.normalized(x[i]);
      to_g[i] = weight[i] * r.k(v[i], normalized);
      to_x[i] = r.to_x(v[i], g[i] * weight[i], normalized);
    }
  }
}

#define WGAN_FAST_NORM(W, Weight)                                                                            \
  WGAN_FAST_CLONES void add(const W* x, const W* g, const W* v, const Weight<W>& weight, int64_t size,       \
                            W mean, W rstd, Lanes<W>& sums) {                                                \
    add_block(x, g, v, weight, size, mean, rstd, sums);                                                      \
  }                                                                                                          \
  WGAN_FAST_CLONES void differentiate(const W* x, const W* g, const W* v, const Weight<W>& weight,           \
                                      int64_t size, const NormRow<W>& row, W* to_g, W* to_x, W* to_weight) { \
    differentiate_block(x, g, v, weight, size, row, to_g, to_x, to_weight);                                  \
  }
WGAN_FAST_NORM(float, Weights)
WGAN_FAST_NORM(float, OneWeight)
WGAN_FAST_NORM(double, Weights)
WGAN_FAST_NORM(double, OneWeight)

template <class T>
struct Norm {
  using W = Wide<T>;
  const T *x, *g, *v;
  const W *mean, *rstd, *weight;
  T *to_g, *to_x;
  NormShape shape;

  int64_t row_size() const { return shape.channels / shape.groups * shape.positions; }
  W mean_of(int64_t row) const { return mean == nullptr ? W(0) : mean[row]; }

  // The sums of `size` values from the `begin`-th on.
  template <class Weight>
  NormSums<W> sums(int64_t row, int64_t begin, int64_t size, const Weight& weights) const {
    alignas(64) W rooms[3][kBlock];
    Lanes<W> lanes;
    for (int64_t done = 0; done < size; done += kBlock) {
      const int64_t count = std::min(kBlock, size - done), from = begin + done;
      const W* wide_v = read(v, from, count, rooms[2]);
      const W* wide_g = g == nullptr ? wide_v : read(g, from, count, rooms[1]);
      add(read(x, from, count, rooms[0]), wide_g, wide_v, shifted(weights, done), count, mean_of(row),
          rstd[row], lanes);
    }
    return sums_of(lanes);
  }

  // The results for them; to_weight, unless null, has a sum per value.
  template <class Weight>
  void results(int64_t begin, int64_t size, const Weight& weights, const NormRow<W>& row,
               W* to_weight) const {
    alignas(64) W rooms[5][kBlock];
    for (int64_t done = 0; done < size; done += kBlock) {
      const int64_t count = std::min(kBlock, size - done), from = begin + done;
      const W* wide_v = read(v, from, count, rooms[2]);
      const W* wide_g = g == nullptr ? wide_v : read(g, from, count, rooms[1]);
      W *first = place(to_g, from, rooms[3]), *second = place(to_x, from, rooms[4]);
      differentiate(read(x, from, count, rooms[0]), wide_g, wide_v, shifted(weights, done), count, row, first,
                    second, to_weight == nullptr ? nullptr : to_weight + done);
      write(first, to_g, from, count);
      write(second, to_x, from, count);
    }
  }

  static Weights<W> shifted(const Weights<W>& weights, int64_t by) { return {weights.values + by}; }
  static OneWeight<W> shifted(const OneWeight<W>& weight, int64_t) { return weight; }

  NormRow<W> row_of(int64_t row, const NormSums<W>& sums) const {
    return {mean_of(row), rstd[row], sums, W(row_size()), mean != nullptr};
  }

  // Rows [begin, end) with a weight per value: `repeated` has them for all groups, `to_repeated` the sums.
  template <class Weight>
  void rows(int64_t begin, int64_t end, const Weight& repeated, W* to_repeated) const {
    const int64_t size = row_size();
    for (int64_t row = begin; row < end; ++row) {
      const int64_t shift = row % shape.groups * size;
      const Weight weights = shifted(repeated, shift);
      const NormSums<W> of_row = sums(row, row * size, size, weights);
      results(row * size, size, weights, row_of(row, of_row),
              to_repeated == nullptr ? nullptr : to_repeated + shift);
    }
  }

  // Rows [begin, end) with a weight per channel; `to_channels`, unless null, has one value per sample and
  // channel.
  void rows_of_channels(int64_t begin, int64_t end, W* to_channels) const {
    const int64_t per_group = shape.channels / shape.groups, positions = shape.positions;
    std::vector<NormSums<W>> parts(static_cast<size_t>(per_group));
    for (int64_t row = begin; row < end; ++row) {
      NormSums<W> of_row{};
      const W* weights = weight == nullptr ? nullptr : weight + row % shape.groups * per_group;
      for (int64_t i = 0; i < per_group; ++i) {
        const int64_t channel = row * per_group + i;
        parts[size_t(i)] = sums(row, channel * positions, positions, OneWeight<W>{W(1)});
        of_row.add(weights == nullptr ? parts[size_t(i)] : parts[size_t(i)].weighted(weights[i]));
      }
      const NormRow<W> constants = row_of(row, of_row);
      for (int64_t i = 0; i < per_group; ++i) {
        const int64_t channel = row * per_group + i;
        results(channel * positions, positions, OneWeight<W>{weights == nullptr ? W(1) : weights[i]},
                constants, nullptr);
        if (to_channels != nullptr) to_channels[channel] = constants.to_weight(parts[size_t(i)]);
      }
    }
  }
};

// to_weight[c] = Σ over parts, in ascending order, of Σ over positions of sums[part, c, position].
template <class W>
void add_parts(const std::vector<W>& sums, W* to_weight, int64_t parts, int64_t channels, int64_t positions,
               int threads) {
  parallel_shares(channels, kShareAlignment, threads, int64_t(sums.size()) >= kSerialBelow,
                  [&](int64_t begin, int64_t end) {
                    std::fill(to_weight + begin, to_weight + end, W(0));
                    for (int64_t part = 0; part < parts; ++part) {
                      const W* values = sums.data() + part * channels * positions;
                      for (int64_t c = begin; c < end; ++c) {
                        for (int64_t i = 0; i < positions; ++i) to_weight[c] += values[c * positions + i];
                      }
                    }
                  });
}

template <class T>
void run(const Norm<T>& norm, Wide<T>* to_weight, int threads) {
  using W = Wide<T>;
  const NormShape& shape = norm.shape;
  const int64_t rows = shape.batch * shape.groups, sample = shape.channels * shape.positions;
  const bool worth_it = shape.batch * sample >= kSerialBelow;
  if (shape.positions >= kShortChannel) {
    std::vector<W> sums(to_weight == nullptr ? 0 : size_t(shape.batch * shape.channels));
    parallel_shares(rows, 1, threads, worth_it, [&](int64_t begin, int64_t end) {
      norm.rows_of_channels(begin, end, to_weight == nullptr ? nullptr : sums.data());
    });
    if (to_weight != nullptr) add_parts(sums, to_weight, shape.batch, shape.channels, 1, threads);
    return;
  }
  std::vector<W> repeated;
  const W* weights = norm.weight;
  if (weights != nullptr && shape.positions > 1) {
    for (int64_t c = 0; c < shape.channels; ++c) repeated.insert(repeated.end(), shape.positions, weights[c]);
    weights = repeated.data();
  }
  const int64_t most = std::max<int64_t>(1, std::min(kMostChunks, shape.batch / kFewestSamples));
  const int64_t per_chunk = (shape.batch + most - 1) / most;
  const int64_t chunks = per_chunk ? (shape.batch + per_chunk - 1) / per_chunk : 0;
  std::vector<W> sums(to_weight == nullptr ? 0 : size_t(chunks * sample));
  parallel_shares(chunks, 1, threads, worth_it, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * per_chunk * shape.groups;
      const int64_t last = std::min(rows, first + per_chunk * shape.groups);
      W* to = to_weight == nullptr ? nullptr : sums.data() + chunk * sample;
      if (weights == nullptr) {
        norm.rows(first, last, OneWeight<W>{W(1)}, to);
      } else {
        norm.rows(first, last, Weights<W>{weights}, to);
      }
    }
  });
  if (to_weight != nullptr) add_parts(sums, to_weight, chunks, shape.channels, shape.positions, threads);
}

}  // namespace

void norm_double_backward(const NormAddresses& at, int code, const NormShape& shape, int threads) {
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    using W = Wide<T>;
    const Norm<T> norm{pointer<const T>(at.x),    pointer<const T>(at.g),    pointer<const T>(at.v),
                       pointer<const W>(at.mean), pointer<const W>(at.rstd), pointer<const W>(at.weight),
                       pointer<T>(at.to_g),       pointer<T>(at.to_x),       shape};
    run(norm, pointer<W>(at.to_weight), threads);
  });
}

}  // namespace wgan_fast
