// Conversion of Python arguments, for the modules _cpu and _cuda.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "dtypes.h"
#include "rules.h"

namespace wgan_fast {

namespace py = pybind11;

// Several times faster than pybind11's own conversion of a list, which shows in a critic of a hundred
// tensors.
inline std::vector<int64_t> integers(const py::handle& list) {
  if (!PyList_Check(list.ptr())) throw std::invalid_argument("expected a list of integers");
  std::vector<int64_t> values(size_t(PyList_GET_SIZE(list.ptr())));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = PyLong_AsLongLong(PyList_GET_ITEM(list.ptr(), Py_ssize_t(i)));
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return values;
}

// Columns of one number per parameter: sizes, addresses of the step counts, then the addresses of each block.
inline std::vector<StepRow> step_rows(const py::list& columns, size_t num_blocks) {
  if (columns.size() != 2 + num_blocks) throw std::invalid_argument("wrong number of columns");
  std::vector<StepRow> rows;
  for (size_t column = 0; column < columns.size(); ++column) {
    const std::vector<int64_t> numbers = integers(columns[column]);
    if (column == 0) rows.resize(numbers.size());
    if (numbers.size() != rows.size()) throw std::invalid_argument("columns of unequal length");
    for (size_t i = 0; i < rows.size(); ++i) {
      if (column == 0) {
        rows[i].size = numbers[i];
      } else if (column == 1) {
        rows[i].step = pointer<float>(numbers[i]);
      } else {
        rows[i].blocks[column - 2] = pointer<void>(numbers[i]);
      }
    }
  }
  return rows;
}

inline Reduction reduction_of(const std::string& name) {
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  if (name == "none") return Reduction::kNone;
  throw std::invalid_argument("reduction: expected mean, sum or none, got " + name);
}

// The tuples of wgan_fast/optimizer_options.py.
inline RMSpropOptions rmsprop_options(const py::tuple& o) {
  const auto number = [&](size_t i) { return o[i].cast<double>(); };
  return {number(0), number(1), number(2), number(3), number(4), o[5].cast<bool>(), number(6), number(7)};
}

inline AdamOptions adam_options(const py::tuple& o) {
  const auto number = [&](size_t i) { return o[i].cast<double>(); };
  return {number(0),         number(1),         number(2), number(3), number(4),
          o[5].cast<bool>(), o[6].cast<bool>(), number(7), number(8)};
}

}  // namespace wgan_fast
