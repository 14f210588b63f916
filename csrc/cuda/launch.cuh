// Shared by all kernel files: 16-byte packs, the dispatch on dtype codes, and a launch that reports errors.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "dtypes.h"

namespace wgan_fast {

constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;
// The widest access a thread can make to global memory.
constexpr int kPackBytes = 16;

// Values that are loaded and stored by one instruction.
template <class T, int kWidth, bool kHalves = (sizeof(T) == 2 && kWidth > 1)>
struct alignas(kWidth * sizeof(T)) Pack {
  T values[kWidth];

  __device__ __forceinline__ T get(int lane) const { return values[lane]; }
  __device__ __forceinline__ void set(int lane, T value) { values[lane] = value; }
  __device__ __forceinline__ void stay_packed() {}
};

// 16-bit values, two per register: by default the compiler gives each a register of its own and spills.
template <class T, int kWidth>
struct alignas(kWidth * sizeof(T)) Pack<T, kWidth, true> {
  uint32_t words[kWidth / 2];

  __device__ __forceinline__ T get(int lane) const {
    return {uint16_t(words[lane / 2] >> (16 * (lane % 2)))};
  }
  __device__ __forceinline__ void set(int lane, T value) {
    const uint32_t others = words[lane / 2] & (lane % 2 ? 0x0000ffffu : 0xffff0000u);
    words[lane / 2] = others | uint32_t(value.bits) << (16 * (lane % 2));
  }
  // Keeps the compiler from holding the widened values for a later use.
  __device__ __forceinline__ void stay_packed() {
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) asm volatile("" : "+r"(words[i]));
  }
};

template <class T>
constexpr int kPackWidth = kPackBytes / int(sizeof(T));

template <int kWidth, class T>
__device__ __forceinline__ Pack<T, kWidth> load_pack(const T* values, int64_t pack) {
  return reinterpret_cast<const Pack<T, kWidth>*>(values)[pack];
}

template <int kWidth, class T>
__device__ __forceinline__ void store_pack(T* values, int64_t pack, const Pack<T, kWidth>& stored) {
  reinterpret_cast<Pack<T, kWidth>*>(values)[pack] = stored;
}

// True where every address (also null, an absent one) begins a pack.
template <class... Pointers>
__host__ __device__ __forceinline__ bool begin_packs(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) | ...) % kPackBytes) == 0;
}

inline int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Where a launch goes, and the operation it is made for.
struct Launch {
  const char* op;
  cudaStream_t stream;

  [[noreturn]] void fail(const std::string& why) const {
    throw std::runtime_error(std::string(op) + ": the CUDA kernel could not be launched: " + why);
  }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, int threads,
                  Arguments&&... arguments) const {
    if (blocks > std::numeric_limits<int32_t>::max()) fail(std::to_string(blocks) + " blocks are too many");
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(unsigned(blocks));
    config.blockDim = dim3(unsigned(threads));
    config.stream = stream;
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Arguments&&>(arguments)...));
  }

  void check(cudaError_t error) const {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // so that the next CUDA call does not report this error again
    fail(cudaGetErrorString(error));
  }
};

}  // namespace wgan_fast
