// Clamp all weights of a critic in one launch: 2N values of traffic, read and write.
#include "kernels.h"
#include "multi_tensor.cuh"

namespace wgan_fast {
namespace {

struct Nothing {};

template <class T>
struct Clip {
  using Value = T;
  using PerTensor = Nothing;
  static constexpr int kArrays = 1;
  static constexpr int kUnroll = 4;
  static WGAN_FAST_HD constexpr bool written(int) { return true; }

  ClipBounds<T> bounds;

  __device__ Nothing prepare(const Nothing&) const { return {}; }
  __device__ __forceinline__ void operator()(T (&values)[1], const Nothing&) const {
    values[0] = bounds(values[0]);
  }
};

}  // namespace

void clip_weights(const std::vector<int64_t>& addresses, const std::vector<int64_t>& sizes, int code,
                  double lo, double hi, void* stream) {
  const Launch launch{"clip_weights_", static_cast<cudaStream_t>(stream)};
  with_dtype(code, [&](auto tag) {
    using Op = Clip<decltype(tag)>;
    std::vector<TensorEntry<Op>> entries(addresses.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      entries[i].size = sizes[i];
      entries[i].addresses[0] = pointer<void>(addresses[i]);
    }
    multi_tensor_apply(launch, Op{ClipBounds<decltype(tag)>(lo, hi)}, entries);
  });
}

}  // namespace wgan_fast
