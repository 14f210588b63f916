// The module wgan_fast._cpu: Python numbers in, kernels run, nothing else. The interpreter lock is released
// while a kernel works, so that a thread that prepares the next batch goes on.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "engine.h"
#include "kernels.h"

namespace py = pybind11;

namespace wgan_fast {
namespace {

// pybind11's own conversion of a list of ints is several times slower, which shows in a critic of a hundred
// tensors.
std::vector<int64_t> integers(const py::list& list) {
  std::vector<int64_t> values(list.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = PyLong_AsLongLong(PyList_GET_ITEM(list.ptr(), Py_ssize_t(i)));
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return values;
}

// Columns of one number a parameter: dtype code, size, address of the step count, then the addresses of the
// blocks.
std::vector<StepRow> step_rows(const py::list& columns, size_t num_blocks) {
  if (columns.size() != 3 + num_blocks) throw std::invalid_argument("wrong number of columns");
  std::vector<std::vector<int64_t>> fields;
  for (const py::handle column : columns)
    fields.push_back(integers(py::reinterpret_borrow<py::list>(column)));
  std::vector<StepRow> rows(fields[0].size());
  for (const auto& column : fields) {
    if (column.size() != rows.size()) throw std::invalid_argument("columns of unequal length");
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].code = int(fields[0][i]);
    rows[i].size = fields[1][i];
    rows[i].step = pointer<float>(fields[2][i]);
    for (size_t block = 0; block < num_blocks; ++block)
      rows[i].blocks[block] = pointer<void>(fields[3 + block][i]);
  }
  return rows;
}

Reduction reduction_of(const std::string& name) {
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "none") return Reduction::kNone;
  throw std::invalid_argument("reduction: expected mean, sum or none, got " + name);
}

}  // namespace
}  // namespace wgan_fast

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

  module.def("rmsprop_step",
             [](const py::list& list, bool centered, bool with_momentum, double lr, double alpha, double eps,
                double weight_decay, double momentum, double lo, double hi, bool maximize, int threads) {
               const auto rows = step_rows(list, size_t(3 + centered + with_momentum));
               const RMSpropOptions options{lr, alpha, eps, weight_decay, momentum, lo, hi, maximize};
               py::gil_scoped_release release;
               rmsprop_step(rows, centered, with_momentum, options, threads);
             });

  module.def("adam_step", [](const py::list& list, bool amsgrad, double lr, double beta1, double beta2,
                             double eps, double weight_decay, double lo, double hi,
                             bool decoupled_weight_decay, bool maximize, int threads) {
    const auto rows = step_rows(list, size_t(4 + amsgrad));
    const AdamOptions options{lr, beta1, beta2, eps, weight_decay, lo, hi, decoupled_weight_decay, maximize};
    py::gil_scoped_release release;
    adam_step(rows, amsgrad, options, threads);
  });
}
