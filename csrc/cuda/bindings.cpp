// The module wgan_fast._cuda: takes Python numbers and launches kernels, nothing else. It links the CUDA
// runtime statically, so it imports on any machine; `unusable` returns the reason why its kernels cannot run.
#include "bindings.h"

#include <cuda_runtime.h>

#include "kernels.h"

namespace wgan_fast {
namespace {

// Of the machine code in build_tools/cuda.py. On later devices the driver compiles the PTX, which one older
// than the toolkit may not know.
constexpr int kOldestMajor = 8, kNewestMajor = 9;

std::string release(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Empty if every device can run the kernels.
std::string unusable() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return std::string("the CUDA runtime reports: ") + cudaGetErrorString(error);
  if (devices == 0) return "there is no CUDA device";
  int driver = 0;
  cudaDriverGetVersion(&driver);
  for (int device = 0; device < devices; ++device) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (major < kOldestMajor) {
      return "device " + std::to_string(device) + " has compute capability " + std::to_string(major) +
             ".x, the kernels need " + std::to_string(kOldestMajor) + ".0 or newer";
    }
    if (major > kNewestMajor && driver < CUDART_VERSION) {
      return "device " + std::to_string(device) + " has compute capability " + std::to_string(major) +
             ".x, for which its driver, of CUDA " + release(driver) +
             ", would have to compile the kernels of CUDA " + release(CUDART_VERSION);
    }
  }
  return "";
}

// torch has made `device` current through its own copy of the runtime; this makes it current for ours.
void* on_device(const char* op, int device, int64_t stream) {
  const cudaError_t error = cudaSetDevice(device);
  if (error != cudaSuccess) {
    cudaGetLastError();
    throw std::runtime_error(std::string(op) + ": CUDA device " + std::to_string(device) +
                             " could not be used: " + cudaGetErrorString(error));
  }
  return pointer<void>(stream);
}

DeviceLr device_lr(int64_t address, bool is_double) { return {pointer<const void>(address), is_double}; }

}  // namespace
}  // namespace wgan_fast

PYBIND11_MODULE(_cuda, module) {
  using namespace wgan_fast;
  module.doc() = "CUDA kernels; called by wgan_fast.backends.cuda";

  module.def("unusable", &unusable);
  module.def("penalty_workspace", &penalty_workspace);

  module.def("clip_weights", [](int device, int64_t stream, const py::list& addresses, const py::list& sizes,
                                int code, double lo, double hi) {
    clip_weights(integers(addresses), integers(sizes), code, lo, hi,
                 on_device("clip_weights_", device, stream));
  });

  module.def("interpolate", [](int device, int64_t stream, int64_t real, int64_t fake, int64_t alpha,
                               int64_t out, int64_t batch, int64_t total, int code) {
    interpolate(real, fake, alpha, out, batch, total, code, on_device("interpolate", device, stream));
  });

  module.def("gradient_norm_penalty",
             [](int device, int64_t stream, int64_t gradients, int64_t slope, int64_t norms, int64_t value,
                int64_t workspace, int64_t batch, int64_t total, int code, double target, bool one_sided,
                double weight, const std::string& reduction) {
               gradient_norm_penalty(gradients, slope, norms, value, workspace, batch, total, code,
                                     {target, weight, 1.0, one_sided}, reduction_of(reduction),
                                     on_device("gradient_norm_penalty", device, stream));
             });

  module.def("activation_double_backward",
             [](int device, int64_t stream, int64_t saved, int64_t g, int64_t v, int64_t to_g,
                int64_t to_saved, int64_t size, int code, int activation, double a, double b, double c) {
               activation_double_backward(saved, g, v, to_g, to_saved, size, code, activation, {a, b, c},
                                          on_device("activation_double_backward", device, stream));
             });

  module.def("norm_workspace", &norm_workspace);
  module.def(
      "norm_double_backward",
      [](int device, int64_t stream, int64_t x, int64_t mean, int64_t rstd, int64_t weight, int64_t g,
         int64_t v, int64_t to_g, int64_t to_x, int64_t to_weight, int64_t partials, int64_t workspace,
         int64_t chunks, int64_t batch, int64_t channels, int64_t positions, int64_t groups, int code) {
        norm_double_backward({x, mean, rstd, weight, g, v, to_g, to_x, to_weight}, partials, workspace,
                             chunks, code, {batch, channels, positions, groups},
                             on_device("norm_double_backward", device, stream));
      });

  module.def("rmsprop_step", [](int device, int64_t stream, const py::list& columns, int code,
                                bool steps_on_device, bool centered, bool with_momentum, int64_t lr_address,
                                bool lr_is_double, const py::tuple& options) {
    rmsprop_step(step_rows(columns, size_t(3 + centered + with_momentum)), code, centered, with_momentum,
                 rmsprop_options(options), device_lr(lr_address, lr_is_double), steps_on_device,
                 on_device("rmsprop_step_", device, stream));
  });

  module.def("adam_step", [](int device, int64_t stream, const py::list& columns, int code,
                             bool steps_on_device, bool amsgrad, int64_t lr_address, bool lr_is_double,
                             const py::tuple& options) {
    adam_step(step_rows(columns, size_t(4 + amsgrad)), code, amsgrad, adam_options(options),
              device_lr(lr_address, lr_is_double), steps_on_device, on_device("adam_step_", device, stream));
  });
}
