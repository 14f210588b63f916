// Runs every kernel over shapes that cross the edges of packs, chunks, blocks and splits, with memory that
// ends where the tensors end: under a sanitizer, whatever a kernel touches outside shows. Results are
// compared with the same formulas in fp64, so that a fault in the arithmetic shows as well. Arguments: the
// names of the ops to run (all), and
// --few for fewer shapes, of fp32 only: real threads are slow, and barriers do not depend on the dtype.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

using namespace wgan_fast;

namespace {

template <class T>
constexpr int kCode = 0;
template <>
constexpr int kCode<double> = 1;
template <>
constexpr int kCode<bf16> = 2;
template <>
constexpr int kCode<fp16> = 3;

template <class T>
double tolerance() {
  return kCode<T> == 1 ? 1e-12 : kCode<T> == 0 ? 1e-5 : kCode<T> == 2 ? 2e-2 : 3e-3;
}

std::string now;  // what is running, for the message
bool few = false;

using Shapes = std::vector<std::pair<int64_t, int64_t>>;

void check(double actual, double expected, double allowed) {
  if (std::abs(actual - expected) <= allowed * (1 + std::abs(expected))) return;
  fprintf(stderr, "%s: got %.17g, expected %.17g\n", now.c_str(), actual, expected);
  exit(1);
}

// `size` elements from the `offset`-th of an allocation that ends with the last of them.
template <class T>
class Buffer {
 public:
  Buffer(int64_t size, int64_t offset, double value) : offset_(offset), values_(size_t(size + offset)) {
    for (T& each : values_) each = narrow<T>(Wide<T>(value));
  }
  static Buffer random(int64_t size, int64_t offset, double scale) {
    Buffer buffer(size, offset, 0);
    std::normal_distribution<double> normal(0, scale);
    for (T& each : buffer.values_) each = narrow<T>(Wide<T>(normal(generator())));
    return buffer;
  }
  static Buffer poisoned(int64_t size, int64_t offset) { return Buffer(size, offset, std::nan("")); }

  double operator[](int64_t i) const { return double(widen(values_[size_t(i + offset_)])); }
  int64_t size() const { return int64_t(values_.size()) - offset_; }
  int64_t address() const { return int64_t(reinterpret_cast<uintptr_t>(values_.data() + offset_)); }
  void* pointer() const { return reinterpret_cast<void*>(uintptr_t(address())); }

 private:
  static std::mt19937& generator() {
    static std::mt19937 it(1);
    return it;
  }
  int64_t offset_;
  std::vector<T> values_;
};

template <class T>
void exercise_clip_weights(int64_t offset) {
  std::vector<Buffer<T>> tensors;
  for (int64_t size : {1, 2, 3, 7, 8, 9, 255, 256, 1023, 1024, 1025, 2049, 4103, 8191, 8200, 20011}) {
    tensors.push_back(Buffer<T>::random(size, offset, 0.02));
  }
  for (int i = 0; i < 300 && !few; ++i) tensors.push_back(Buffer<T>::random(1 + i % 5, offset, 0.02));
  const std::vector<Buffer<T>> before = tensors;
  std::vector<int64_t> addresses, sizes;
  for (const Buffer<T>& tensor : tensors) {
    addresses.push_back(tensor.address());
    sizes.push_back(tensor.size());
  }
  clip_weights(addresses, sizes, kCode<T>, -0.01, 0.01, nullptr);
  for (size_t t = 0; t < tensors.size(); ++t) {
    for (int64_t i = 0; i < sizes[t]; ++i) {
      check(tensors[t][i], std::min(std::max(before[t][i], -0.01), 0.01), tolerance<T>() / 100);
    }
  }
}

template <class T>
void exercise_interpolate(int64_t offset) {
  Shapes shapes = {{1, 1},   {3, 5},    {300, 2},   {5, 1024}, {2, 4099},
                   {64, 16}, {3, 8192}, {2, 16400}, {1, 4097}};
  if (few) shapes = {{300, 2}, {3, 8192}};
  for (const auto& [batch, row] : shapes) {
    const auto real = Buffer<T>::random(batch * row, offset, 1),
               fake = Buffer<T>::random(batch * row, offset, 1);
    const auto alpha = Buffer<Wide<T>>::random(batch, 0, 1);
    const auto out = Buffer<T>::poisoned(batch * row, offset);
    interpolate(real.address(), fake.address(), alpha.address(), out.address(), batch, batch * row, kCode<T>,
                nullptr);
    for (int64_t i = 0; i < batch * row; ++i) {
      check(out[i], fake[i] + alpha[i / row] * (real[i] - fake[i]), 4 * tolerance<T>());
    }
  }
}

template <class T>
void exercise_penalty(int64_t offset) {
  Shapes shapes = {{0, 4},   {1, 1},   {257, 2},  {9, 33},    {5, 130},
                   {3, 784}, {40, 96}, {2, 5000}, {2, 70000}, {1, 16385}};
  if (few) shapes = {{257, 2}, {9, 33}, {2, 5000}, {1, 40000}};
  for (const auto& [batch, row] : shapes) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
      const bool with_slope = reduction != Reduction::kSum, per_row = reduction == Reduction::kNone;
      const auto gradients = Buffer<T>::random(batch * row, offset, 0.1);
      const auto slope = Buffer<T>::poisoned(batch * row, offset);
      const auto norms = Buffer<Wide<T>>::poisoned(batch, 0),
                 value = Buffer<Wide<T>>::poisoned(per_row ? batch : 1, 0);
      const auto workspace = Buffer<Wide<T>>::poisoned(penalty_workspace(batch, row, kCode<T>), 0);
      const PenaltyOptions options{1.0, 10.0, 1.0, false};
      gradient_norm_penalty(gradients.address(), with_slope ? slope.address() : 0, norms.address(),
                            value.address(), workspace.address(), batch, batch * row, kCode<T>, options,
                            reduction, nullptr);
      const double scale = reduction == Reduction::kMean ? 1.0 / double(batch) : 1;
      double sum = 0;
      for (int64_t b = 0; b < batch; ++b) {
        double squares = 0;
        for (int64_t i = b * row; i < (b + 1) * row; ++i) squares += gradients[i] * gradients[i];
        const double norm = std::sqrt(squares), penalty = 10 * (norm - 1) * (norm - 1);
        sum += penalty * scale;
        check(norms[b], norm, 1e-5);
        if (per_row) check(value[b], penalty, 1e-4);
        for (int64_t i = b * row; with_slope && i < (b + 1) * row; ++i) {
          check(slope[i], 20 * scale * (norm - 1) / norm * gradients[i], tolerance<T>());
        }
      }
      if (!per_row && batch > 0) check(value[0], sum, 1e-4);
    }
  }
}

// The parameter, its gradient and three moments, of odd sizes.
template <class T>
std::vector<std::vector<Buffer<T>>> optimizer_buffers(int64_t offset) {
  std::vector<std::vector<Buffer<T>>> tensors;
  for (int64_t size : {1, 5, 256, 1031, 4096, 9003}) {
    tensors.emplace_back();
    for (int block = 0; block < 5; ++block) {
      tensors.back().push_back(Buffer<T>::random(size, offset, 0.1));
      if (block >= 2) tensors.back().back() = Buffer<T>(size, offset, block == 2 ? 0.3 : 0.25);
    }
  }
  return tensors;
}

template <class T>
std::vector<StepRow> step_rows(const std::vector<std::vector<Buffer<T>>>& tensors,
                               std::vector<float>& steps) {
  std::vector<StepRow> rows(tensors.size());
  steps.assign(tensors.size(), 3);
  for (size_t t = 0; t < tensors.size(); ++t) {
    rows[t].size = tensors[t][0].size();
    rows[t].step = &steps[t];
    for (size_t block = 0; block < 5; ++block) rows[t].blocks[block] = tensors[t][block].pointer();
  }
  return rows;
}

double clamped(double value) { return std::min(std::max(value, -0.05), 0.05); }

template <class T>
void exercise_rmsprop(int64_t offset) {
  const RMSpropOptions options{0.01, 0.99, 1e-8, 0.1, 0.9, false, -0.05, 0.05};
  const float lr = 0.02f;
  for (const int variant : {0, 1, 2, 3}) {
    const bool centered = variant & 1, momentum = variant & 2;
    const auto tensors = optimizer_buffers<T>(offset);
    const auto before = tensors;
    std::vector<float> steps;
    rmsprop_step(step_rows(tensors, steps), kCode<T>, centered, momentum, options,
                 {momentum ? &lr : nullptr, false}, false, nullptr);
    for (size_t t = 0; t < tensors.size(); ++t) {
      check(steps[t], 4, 0);
      for (int64_t i = 0; i < tensors[t][0].size(); ++i) {
        const double p = before[t][0][i], g = before[t][1][i] + 0.1 * p;
        const double v = 0.99 * before[t][2][i] + 0.01 * g * g;
        const double mean = 0.25 + 0.01 * (g - 0.25);
        const double direction = g / (std::sqrt(centered ? v - mean * mean : v) + 1e-8);
        const double buffer = 0.9 * 0.25 + direction;
        check(tensors[t][0][i], clamped(p - (momentum ? lr * buffer : 0.01 * direction)), tolerance<T>());
        check(tensors[t][1][i], before[t][1][i], 0);
        check(tensors[t][2][i], v, tolerance<T>());
        if (centered) check(tensors[t][3][i], mean, tolerance<T>());
        if (momentum) check(tensors[t][centered ? 4 : 3][i], buffer, tolerance<T>());
      }
    }
  }
}

template <class T>
void exercise_adam(int64_t offset) {
  const AdamOptions options{0.01, 0.5, 0.9, 1e-8, 0.1, true, false, -0.05, 0.05};
  const double lr = 0.02;
  for (const int variant : {0, 1, 2, 3}) {
    const bool amsgrad = variant & 1, on_device = variant & 2;
    const auto tensors = optimizer_buffers<T>(offset);
    const auto before = tensors;
    std::vector<float> steps;
    adam_step(step_rows(tensors, steps), kCode<T>, amsgrad, options, {on_device ? &lr : nullptr, true},
              on_device, nullptr);
    const double rate = on_device ? lr : 0.01, step = 4;
    for (size_t t = 0; t < tensors.size(); ++t) {
      check(steps[t], on_device ? 3 : 4, 0);
      for (int64_t i = 0; i < tensors[t][0].size(); ++i) {
        const double p = before[t][0][i] * (1 - rate * 0.1), g = before[t][1][i];
        const double m = 0.5 * 0.3 + 0.5 * g, v = 0.9 * 0.25 + 0.1 * g * g, largest = std::max(v, 0.25);
        const double root = std::sqrt(amsgrad ? largest : v) / std::sqrt(1 - std::pow(0.9, step));
        check(tensors[t][0][i], clamped(p - rate / (1 - std::pow(0.5, step)) * m / (root + 1e-8)),
              tolerance<T>());
        check(tensors[t][2][i], m, tolerance<T>());
        check(tensors[t][3][i], v, tolerance<T>());
        if (amsgrad) check(tensors[t][4][i], largest, tolerance<T>());
      }
    }
  }
}

template <class T>
void exercise(const std::string& op) {
  for (const int64_t offset : {0, 1}) {
    if (few && (offset || kCode<T> != 0)) continue;
    now = op + ", dtype " + std::to_string(kCode<T>) + ", offset " + std::to_string(offset);
    if (op == "clip_weights") exercise_clip_weights<T>(offset);
    if (op == "interpolate") exercise_interpolate<T>(offset);
    if (op == "gradient_norm_penalty") exercise_penalty<T>(offset);
    if (op == "rmsprop_step") exercise_rmsprop<T>(offset);
    if (op == "adam_step") exercise_adam<T>(offset);
  }
}

}  // namespace

int main(int count, char** arguments) {
  few = count > 1 && std::string(arguments[1]) == "--few";
  std::vector<std::string> ops(arguments + (few ? 2 : 1), arguments + count);
  if (ops.empty())
    ops = {"clip_weights", "interpolate", "gradient_norm_penalty", "rmsprop_step", "adam_step"};
  for (const std::string& op : ops) {
    exercise<float>(op);
    exercise<double>(op);
    exercise<bf16>(op);
    exercise<fp16>(op);
    printf("%s: ok\n", op.c_str());
  }
}
