// The module wgan_fast._cpu: takes Python numbers and runs kernels, nothing else. The interpreter lock is
// released while a kernel runs, so that a thread that prepares the next batch can continue.
#include "bindings.h"

#include "engine.h"
#include "kernels.h"

PYBIND11_MODULE(_cpu, module) {
  using namespace wgan_fast;
  module.doc() = "C++ kernels for CPU tensors; called by wgan_fast.backends.cpu";

  module.def("clip_weights", [](const py::list& addresses, const py::list& sizes, const py::list& codes,
                                double lo, double hi, int threads) {
    const auto where = integers(addresses), how_many = integers(sizes), of_what = integers(codes);
    py::gil_scoped_release release;
    clip_weights(where, how_many, of_what, lo, hi, threads);
  });

  module.def("interpolate", &interpolate, py::call_guard<py::gil_scoped_release>());

  module.def(
      "gradient_norm_penalty",
      [](int64_t gradients, int64_t slope, int64_t norms, int64_t value, int64_t batch, int64_t total,
         int code, double target, bool one_sided, double weight, const std::string& reduction, int threads) {
        const PenaltyOptions options{target, weight, 1.0, one_sided};
        const Reduction how = reduction_of(reduction);
        py::gil_scoped_release release;
        gradient_norm_penalty(gradients, slope, norms, value, batch, total, code, options, how, threads);
      });

  module.def("activation_double_backward", [](int64_t saved, int64_t g, int64_t v, int64_t to_g,
                                              int64_t to_saved, int64_t size, int code, int activation,
                                              double a, double b, double c, int threads) {
    py::gil_scoped_release release;
    activation_double_backward(saved, g, v, to_g, to_saved, size, code, activation, {a, b, c}, threads);
  });

  module.def("norm_double_backward",
             [](int64_t x, int64_t mean, int64_t rstd, int64_t weight, int64_t g, int64_t v, int64_t to_g,
                int64_t to_x, int64_t to_weight, int64_t batch, int64_t channels, int64_t positions,
                int64_t groups, int code, int threads) {
               py::gil_scoped_release release;
               norm_double_backward({x, mean, rstd, weight, g, v, to_g, to_x, to_weight}, code,
                                    {batch, channels, positions, groups}, threads);
             });

  module.def("rmsprop_step", [](const py::list& codes, const py::list& columns, bool centered,
                                bool with_momentum, const py::tuple& options, int threads) {
    const auto rows = step_rows(columns, size_t(3 + centered + with_momentum));
    const auto of_what = integers(codes);
    const auto numbers = rmsprop_options(options);
    py::gil_scoped_release release;
    rmsprop_step(rows, of_what, centered, with_momentum, numbers, threads);
  });

  module.def("adam_step", [](const py::list& codes, const py::list& columns, bool amsgrad,
                             const py::tuple& options, int threads) {
    const auto rows = step_rows(columns, size_t(4 + amsgrad));
    const auto of_what = integers(codes);
    const auto numbers = adam_options(options);
    py::gil_scoped_release release;
    adam_step(rows, of_what, amsgrad, numbers, threads);
  });
}
