// Stands in for the CUDA runtime where nvcc's objects are linked: the functions that csrc/cuda and the code
// that nvcc writes around it call, and no more (the import names what is missing). A launch goes to a
// callback, which the tests set: kernel, grid, block, bytes of dynamic shared memory and the addresses of the
// parameters.
#include <cuda_runtime_api.h>

#include <string>
#include <unordered_map>

namespace {

// Returns 0, or writes why the kernel failed.
using Callback = int (*)(const char* kernel, unsigned blocks, unsigned threads, size_t shared_bytes,
                         void** parameters, char* message, size_t capacity);

constexpr int kMultiprocessors = 132, kMajor = 9;

Callback callback = nullptr;
char message[4096] = "";

std::unordered_map<const void*, std::string>& kernels() {
  static std::unordered_map<const void*, std::string> by_stub;
  return by_stub;
}

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
} pushed;

cudaError_t launch(const void* stub, dim3 grid, dim3 block, size_t shared_bytes, void** parameters) {
  const auto kernel = kernels().find(stub);
  if (kernel == kernels().end() || callback == nullptr) return cudaErrorInvalidDeviceFunction;
  const bool flat = grid.y == 1 && grid.z == 1 && block.y == 1 && block.z == 1;
  if (!flat || grid.x == 0 || block.x == 0 || block.x > 1024) return cudaErrorInvalidConfiguration;
  const int failed =
      callback(kernel->second.c_str(), grid.x, block.x, shared_bytes, parameters, message, sizeof message);
  return failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) void ptx_on_launch(Callback given) { callback = given; }

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void**, const char* stub, char*, const char* kernel, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  kernels()[stub] = kernel;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream) {
  pushed = {grid, block, shared_bytes, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  *grid = pushed.grid, *block = pushed.block, *shared_bytes = pushed.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = pushed.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** parameters,
                               size_t shared_bytes, cudaStream_t) {
  return launch(kernel, grid, block, shared_bytes, parameters);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* stub, void** parameters) {
  return launch(stub, config->gridDim, config->blockDim, config->dynamicSmemBytes, parameters);
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return message;
  return error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
                                                : "an error of the stand-in runtime";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute == cudaDevAttrComputeCapabilityMajor) return *value = kMajor, cudaSuccess;
  if (attribute == cudaDevAttrMultiProcessorCount) return *value = kMultiprocessors, cudaSuccess;
  return cudaErrorInvalidValue;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads,
                                                                   size_t, unsigned) {
  *blocks = 1024 / threads;  // 64 registers for each thread
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* stub, int threads,
                                                          size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, stub, threads, shared, 0);
}

}  // extern "C"
