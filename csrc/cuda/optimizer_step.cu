// RMSprop and Adam with the clamp in one launch per dtype: 5N and 7N values of traffic, against 17N and 11N
// for an optimizer followed by a clamp loop.
#include <cmath>

#include "kernels.h"
#include "multi_tensor.cuh"

namespace wgan_fast {
namespace {

// Every op walks the parameter, its gradient (read only) and its moments.
WGAN_FAST_HD constexpr bool is_written(int array) { return array != 1; }

struct Nothing {};

template <class T, bool kCentered, bool kMomentum>
struct RMSpropStep {
  using Value = T;
  using PerTensor = Nothing;
  using Constants = RMSpropConstants<Wide<T>>;
  static constexpr int kArrays = 3 + kCentered + kMomentum;
  static constexpr int kUnroll = 2;
  static WGAN_FAST_HD constexpr bool written(int array) { return is_written(array); }

  Constants constants;
  ClipBounds<T> bounds;
  DeviceLr lr;

  __device__ Constants prepare(const Nothing&) const {
    Constants prepared = constants;
    if (lr.given()) prepared.lr = Wide<T>(lr.read());
    return prepared;
  }

  __device__ __forceinline__ void operator()(T (&values)[kArrays], const Constants& prepared) const {
    constexpr int kMean = kCentered ? 3 : 2, kBuffer = kArrays - 1;
    Wide<T> square_avg = widen(values[2]), grad_avg = widen(values[kMean]), buffer = widen(values[kBuffer]);
    const Wide<T> updated = rmsprop<Wide<T>, kCentered, kMomentum>(widen(values[0]), widen(values[1]),
                                                                   square_avg, grad_avg, buffer, prepared);
    values[0] = bounds(narrow<T>(updated));
    values[2] = narrow<T>(square_avg);
    if (kCentered) values[kMean] = narrow<T>(grad_avg);
    if (kMomentum) values[kBuffer] = narrow<T>(buffer);
  }
};

// Adam's data per tensor: its step count where that is on the device, else the correction, computed here.
template <class W>
struct AdamTensor {
  const float* step;
  AdamCorrection<W> correction;
};

template <class T, bool kAmsgrad>
struct AdamStep {
  using Value = T;
  using PerTensor = AdamTensor<Wide<T>>;
  using Correction = AdamCorrection<Wide<T>>;
  static constexpr int kArrays = 4 + kAmsgrad;
  static constexpr int kUnroll = 2;
  static WGAN_FAST_HD constexpr bool written(int array) { return is_written(array); }

  AdamConstants<Wide<T>> constants;
  ClipBounds<T> bounds;
  AdamOptions options;
  DeviceLr lr;

  __device__ Correction prepare(const PerTensor& tensor) const {
    if (!tensor.step && !lr.given()) return tensor.correction;
    if (!tensor.step) {
      const double rate = lr.read();
      return {Wide<T>(rate * tensor.correction.step_size), tensor.correction.inverse_root_correction,
              Wide<T>(1 - rate * options.weight_decay)};
    }
    // One warp takes the powers for its block, both at once: they are fp64, which most GPUs have few units
    // for.
    __shared__ Correction correction;
    if (threadIdx.x < kWarp) {
      const bool is_first = threadIdx.x % 2 == 0;
      const double sum = adam_weight_sum(is_first ? options.beta1 : options.beta2, *tensor.step + 1);
      const double other = __shfl_xor_sync(kFullWarp, sum, 1);
      if (threadIdx.x == 0) {
        AdamOptions current = options;
        if (lr.given()) current.lr = lr.read();
        correction = adam_correction<Wide<T>>(sum, other, current);
      }
    }
    __syncthreads();
    return correction;
  }

  __device__ __forceinline__ void operator()(T (&values)[kArrays], const Correction& correction) const {
    Wide<T> exp_avg = widen(values[2]), exp_avg_sq = widen(values[3]), largest = widen(values[kArrays - 1]);
    const Wide<T> updated = adam<Wide<T>, kAmsgrad>(widen(values[0]), widen(values[1]), exp_avg, exp_avg_sq,
                                                    largest, correction, constants);
    values[0] = bounds(narrow<T>(updated));
    values[2] = narrow<T>(exp_avg);
    values[3] = narrow<T>(exp_avg_sq);
    if (kAmsgrad) values[4] = narrow<T>(largest);
  }
};

template <class Op>
std::vector<TensorEntry<Op>> entries_of(const std::vector<StepRow>& rows) {
  std::vector<TensorEntry<Op>> entries(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    entries[i].size = rows[i].size;
    std::copy_n(rows[i].blocks, Op::kArrays, entries[i].addresses);
  }
  return entries;
}

// Advances the counts that are kept on the host; called once nothing can fail any more.
void count_steps(const std::vector<StepRow>& rows, bool steps_on_device) {
  if (steps_on_device) return;
  for (const StepRow& row : rows) *row.step += 1;
}

template <class T, bool kCentered, bool kMomentum>
void launch_rmsprop(const Launch& launch, const std::vector<StepRow>& rows, const RMSpropOptions& options,
                    DeviceLr lr) {
  using Op = RMSpropStep<T, kCentered, kMomentum>;
  multi_tensor_apply(launch, Op{options, {options.lo, options.hi}, lr}, entries_of<Op>(rows));
}

template <class T, bool kAmsgrad>
void launch_adam(const Launch& launch, const std::vector<StepRow>& rows, const AdamOptions& options,
                 DeviceLr lr, bool steps_on_device) {
  using Op = AdamStep<T, kAmsgrad>;
  auto entries = entries_of<Op>(rows);
  AdamOptions on_host = options;
  if (lr.given()) on_host.lr = 1;
  for (size_t i = 0; i < rows.size(); ++i) {
    auto& tensor = entries[i].per_tensor;
    tensor.step = steps_on_device ? rows[i].step : nullptr;
    if (!steps_on_device) tensor.correction = adam_correction<Wide<T>>(*rows[i].step + 1, on_host);
  }
  multi_tensor_apply(launch, Op{options, {options.lo, options.hi}, options, lr}, entries);
}

}  // namespace

void rmsprop_step(const std::vector<StepRow>& rows, int code, bool centered, bool with_momentum,
                  const RMSpropOptions& options, DeviceLr lr, bool steps_on_device, void* stream) {
  const Launch launch{"rmsprop_step_", static_cast<cudaStream_t>(stream)};
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    if (centered && with_momentum) return launch_rmsprop<T, true, true>(launch, rows, options, lr);
    if (centered) return launch_rmsprop<T, true, false>(launch, rows, options, lr);
    if (with_momentum) return launch_rmsprop<T, false, true>(launch, rows, options, lr);
    return launch_rmsprop<T, false, false>(launch, rows, options, lr);
  });
  count_steps(rows, steps_on_device);
}

void adam_step(const std::vector<StepRow>& rows, int code, bool amsgrad, const AdamOptions& options,
               DeviceLr lr, bool steps_on_device, void* stream) {
  const Launch launch{"adam_step_", static_cast<cudaStream_t>(stream)};
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    if (amsgrad) return launch_adam<T, true>(launch, rows, options, lr, steps_on_device);
    return launch_adam<T, false>(launch, rows, options, lr, steps_on_device);
  });
  count_steps(rows, steps_on_device);
}

}  // namespace wgan_fast
