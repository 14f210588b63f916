// The module wgan_fast._cuda: Python numbers in, kernels launched, nothing else. It links the CUDA runtime
// statically, so it imports on any machine; `unusable` says in a sentence why its kernels cannot run there.
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace py = pybind11;

namespace wgan_fast {
namespace {

constexpr int kOldestMajor = 8;

// Empty if every device can run the kernels.
std::string unusable() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess) return std::string("the CUDA runtime reports: ") + cudaGetErrorString(error);
  if (devices == 0) return "there is no CUDA device";
  for (int device = 0; device < devices; ++device) {
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (major < kOldestMajor) {
      return "device " + std::to_string(device) + " has compute capability " + std::to_string(major) +
             ".x, the kernels need " + std::to_string(kOldestMajor) + ".0 or newer";
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
  return reinterpret_cast<void*>(uintptr_t(stream));
}

// Several times faster than pybind11's own conversion of a list, which shows in a critic of a hundred
// tensors.
std::vector<int64_t> integers(const py::list& list) {
  std::vector<int64_t> values(list.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = PyLong_AsLongLong(PyList_GET_ITEM(list.ptr(), Py_ssize_t(i)));
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return values;
}

// Columns with one number a parameter: sizes, addresses of the step counts, then the addresses of each block.
std::vector<StepRow> step_rows(const py::list& columns, size_t num_blocks) {
  if (columns.size() != 2 + num_blocks) throw std::invalid_argument("wrong number of columns");
  std::vector<StepRow> rows;
  for (size_t column = 0; column < columns.size(); ++column) {
    const std::vector<int64_t> numbers = integers(py::reinterpret_borrow<py::list>(columns[column]));
    if (column == 0) rows.resize(numbers.size());
    if (numbers.size() != rows.size()) throw std::invalid_argument("columns of unequal length");
    for (size_t i = 0; i < rows.size(); ++i) {
      if (column == 0) {
        rows[i].size = numbers[i];
      } else if (column == 1) {
        rows[i].step = reinterpret_cast<float*>(uintptr_t(numbers[i]));
      } else {
        rows[i].blocks[column - 2] = reinterpret_cast<void*>(uintptr_t(numbers[i]));
      }
    }
  }
  return rows;
}

Reduction reduction_of(const std::string& name) {
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "none") return Reduction::kNone;
  throw std::invalid_argument("reduction: expected mean, sum or none, got " + name);
}

DeviceLr device_lr(int64_t address, bool is_double) {
  return {reinterpret_cast<const void*>(uintptr_t(address)), is_double};
}

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
                                bool lr_is_double, double lr, double alpha, double eps, double weight_decay,
                                double momentum, bool maximize, double lo, double hi) {
    rmsprop_step(step_rows(columns, size_t(3 + centered + with_momentum)), code, centered, with_momentum,
                 {lr, alpha, eps, weight_decay, momentum, lo, hi, maximize},
                 device_lr(lr_address, lr_is_double), steps_on_device,
                 on_device("rmsprop_step_", device, stream));
  });

  module.def("adam_step", [](int device, int64_t stream, const py::list& columns, int code,
                             bool steps_on_device, bool amsgrad, int64_t lr_address, bool lr_is_double,
                             double lr, double beta1, double beta2, double eps, double weight_decay,
                             bool decoupled_weight_decay, bool maximize, double lo, double hi) {
    adam_step(step_rows(columns, size_t(4 + amsgrad)), code, amsgrad,
              {lr, beta1, beta2, eps, weight_decay, lo, hi, decoupled_weight_decay, maximize},
              device_lr(lr_address, lr_is_double), steps_on_device, on_device("adam_step_", device, stream));
  });
}
