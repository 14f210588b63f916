// Stands in for the header of the CUDA toolkit, so that g++ compiles the very sources that nvcc compiles and
// their kernels run on the host: what csrc/cuda uses of CUDA, and no more.
//
// Blocks run one after another. The threads of a block are fibers (fast, one OS thread, in an order that can
// be reversed), or with HOST_CUDA_THREADS real threads, which ThreadSanitizer can watch. A barrier that some
// threads of a block reach and others do not ends the process with a message.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
// One block at a time: what its threads share is static storage.
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x) : x(x) {}
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::min;

namespace host_cuda {

constexpr int kWarp = 32;
constexpr unsigned kMostThreads = 1024;
constexpr size_t kMostParameterBytes = 4096;

// Runs `thread` once for every thread of every block.
void run_grid(unsigned blocks, unsigned threads, const std::function<void()>& thread);
void wait_for_block();
void wait_for_warp();
// Where a thread of the current block leaves a value for the others of its warp.
void* exchange_slot(unsigned thread);

// What the stand-in answers instead of success, for tests of the error paths; reset by being reported.
extern int next_launch_error, device_error;
extern int64_t launches;
// Blocks of the latest launch; multiprocessors of the device, and the blocks that each of them runs at once.
extern unsigned latest_blocks;
extern int multiprocessors, resident;
// Of the device, its compute capability; of the driver, the newest CUDA that it knows.
extern int capability, driver;

}  // namespace host_cuda

inline void __syncthreads() { host_cuda::wait_for_block(); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(int64_t), "a slot holds 8 bytes");
  (void)mask;
  memcpy(host_cuda::exchange_slot(threadIdx.x), &value, sizeof value);
  host_cuda::wait_for_warp();
  T other;
  memcpy(&other, host_cuda::exchange_slot(threadIdx.x ^ unsigned(lane_mask)), sizeof other);
  host_cuda::wait_for_warp();
  return other;
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrMultiProcessorCount };
using cudaStream_t = struct HostStream*;
#define CUDART_VERSION 13020

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);

template <class... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void (*)(Parameters...), int, size_t) {
  *blocks = host_cuda::resident;
  return cudaError_t(host_cuda::device_error);
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((sizeof(Parameters) + ... + 0) <= host_cuda::kMostParameterBytes,
                "too many kernel parameters");
  if (const int error = host_cuda::next_launch_error) {
    host_cuda::next_launch_error = 0;
    return cudaError_t(error);
  }
  const unsigned blocks = config->gridDim.x, threads = config->blockDim.x;
  if (blocks == 0 || threads == 0 || threads > host_cuda::kMostThreads) return cudaErrorInvalidConfiguration;
  ++host_cuda::launches;
  host_cuda::latest_blocks = blocks;
  host_cuda::run_grid(blocks, threads, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
}
