// The derivatives of an activation's backward, g f(s), given v: 5N values of traffic, three
// read and two written, in one launch.
#include "kernels.h"
#include "launch.cuh"

namespace wgan_fast {
namespace {

constexpr int kThreads = 256;

// A thread has one pack of each tensor; all loads are issued before the first value is used.
template <class Rule, class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    activation_double_backward_kernel(const T* saved, const T* g, const T* v, T* to_g, T* to_saved,
                                      int64_t packs, Rule rule) {
  const int64_t pack = int64_t(blockIdx.x) * kThreads + int(threadIdx.x);
  if (pack >= packs) return;
  Pack<T, kWidth> at = load_pack<kWidth>(saved, pack), tangent = load_pack<kWidth>(v, pack);
  Pack<T, kWidth> signal = load_pack<kWidth>(g == nullptr ? v : g, pack);
#pragma unroll
  for (int lane = 0; lane < kWidth; ++lane) {
    const Slope<Wide<T>> slope = rule(widen(at.get(lane)));
    const Wide<T> arrived = widen(tangent.get(lane));
    tangent.set(lane, narrow<T>(arrived * slope.value));
    signal.set(lane, narrow<T>(arrived * widen(signal.get(lane)) * slope.derivative));
  }
  if (to_g != nullptr) store_pack<kWidth>(to_g, pack, tangent);
  if (to_saved != nullptr) store_pack<kWidth>(to_saved, pack, signal);
}

}  // namespace

void activation_double_backward(int64_t saved, int64_t g, int64_t v, int64_t to_g, int64_t to_saved,
                                int64_t size, int code, int activation, const ActivationOptions& options,
                                void* stream) {
  if (size == 0) return;
  const Launch launch{"activation_double_backward", static_cast<cudaStream_t>(stream)};
  with_dtype(code, [&](auto tag) {
    using T = decltype(tag);
    const T *at = pointer<T>(saved), *signal = pointer<T>(g), *tangent = pointer<T>(v);
    T *first = pointer<T>(to_g), *second = pointer<T>(to_saved);
    with_activation<Wide<T>>(activation, options, [&](const auto& rule) {
      using Rule = std::decay_t<decltype(rule)>;
      const auto run = [&](int64_t packs, auto kernel) {
        if (packs == 0) return;
        launch(kernel, ceil_div(packs, kThreads), kThreads, at, signal, tangent, first, second, packs, rule);
      };
      constexpr int kWidth = kPackWidth<T>;
      if (size % kWidth == 0 && begin_packs(at, signal, tangent, first, second)) {
        run(size / kWidth, activation_double_backward_kernel<Rule, T, kWidth>);
      } else {
        run(size, activation_double_backward_kernel<Rule, T, 1>);
      }
    });
  });
}

}  // namespace wgan_fast
