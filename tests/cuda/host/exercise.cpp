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

// f(s) and f'(s) of every activation in fp64, as textbooks have them: no care is taken of large arguments.
Slope<double> textbook_slope(int activation, double s) {
  const double e = std::exp(s), p = e / (1 + e), q = 1 - p;
  const double density = std::exp(-s * s / 2) / std::sqrt(2 * M_PI), k = std::sqrt(2 / M_PI);
  const double u = k * (s + 0.044715 * s * s * s), du = k * (1 + 0.134145 * s * s), t = std::tanh(u);
  const double sech = 1 - t * t, m = std::tanh(std::log1p(e)), dm = (1 - m * m) * p;
  switch (activation) {
    case 0:
      return {p * (1 + s * q), p * q * (2 + s * (q - p))};
    case 1:
      return {0.5 * std::erfc(-s / std::sqrt(2.0)) + s * density, density * (2 - s * s)};
    case 2:
      return {0.5 * (1 + t) + 0.5 * s * sech * du,
              sech * (du + 0.5 * s * (0.26829 * k * s - 2 * t * du * du))};
    case 3:
      return {s > 0 ? 1.5 : 0.7 * 1.5 * 2 * std::exp(2 * s), s >= 0 ? 0 : 0.7 * 1.5 * 4 * std::exp(2 * s)};
    case 4:
      return {s > 0 ? 1.5 : (s + 0.7 * 1.5) * 2, s >= 0 ? 0.0 : 2.0};
    case 5:
      return {0.7 * s > 1.5 ? 1 : 1 / (1 + std::exp(-0.7 * s)),
              0.7 * s >= 1.5 ? 0 : 0.7 * std::exp(-0.7 * s) / std::pow(1 + std::exp(-0.7 * s), 2)};
    case 6:
      return {1 - s * s, -2 * s};
    case 7:
      return {s * (1 - s), 1 - 2 * s};
    case 8:
      return {m + s * dm, dm * (2 + s * (q - 2 * m * p))};
    case 9:
      return {s <= -3 ? 0 : s >= 3 ? 1 : s / 3 + 0.5, std::abs(s) < 3 ? 1.0 / 3 : 0};
    case 10:
      return {1 / std::pow(1 + std::abs(s), 2), (s > 0 ? -2 : s < 0 ? 2 : 0) / std::pow(1 + std::abs(s), 3)};
    default:
      return {q, -p * q};
  }
}

template <class T>
void exercise_activation(int64_t offset) {
  std::vector<int64_t> sizes = {1, 7, 8, 255, 256, 2048, 2049, 4100};
  if (few) sizes = {8, 2049};
  for (const int64_t size : sizes) {
    for (int activation = 0; activation < 12; ++activation) {
      now += ", activation " + std::to_string(activation);
      const ActivationOptions options = {0.7, 1.5, 2.0};
      const auto saved = Buffer<T>::random(size, offset, 2), g = Buffer<T>::random(size, offset, 1);
      const auto v = Buffer<T>::random(size, offset, 1), to_g = Buffer<T>::poisoned(size, offset);
      const auto to_saved = Buffer<T>::poisoned(size, offset), alone = Buffer<T>::poisoned(size, offset);
      const auto run = [&](int64_t signal, int64_t first, int64_t second) {
        activation_double_backward(saved.address(), signal, v.address(), first, second, size, kCode<T>,
                                   activation, options, nullptr);
      };
      run(g.address(), to_g.address(), to_saved.address());
      run(0, alone.address(), 0);
      for (int64_t i = 0; i < size; ++i) {
        const Slope<double> slope = textbook_slope(activation, saved[i]);
        check(to_g[i], v[i] * slope.value, tolerance<T>());
        check(to_saved[i], v[i] * g[i] * slope.derivative, tolerance<T>());
        check(alone[i], to_g[i], 0);
      }
      run(g.address(), 0, alone.address());
      for (int64_t i = 0; i < size; ++i) check(alone[i], to_saved[i], 0);
      now = now.substr(0, now.rfind(", activation"));
    }
  }
}

// The results by the formulas of norm_rules.h, value by value in fp64.
template <class T>
void exercise_norm(int64_t offset) {
  std::vector<NormShape> shapes = {{1, 2, 1, 1},    {5, 7, 1, 1},    {40, 16, 1, 1},  {9, 130, 1, 1},
                                   {3, 1024, 1, 1}, {2, 4096, 1, 1}, {3, 6, 5, 3},    {2, 4, 40, 2},
                                   {2, 3, 49, 3},   {3, 9001, 1, 1}, {2, 4, 5000, 2}, {1, 8, 16, 1}};
  if (few) shapes = {{9, 130, 1, 1}, {3, 1024, 1, 1}, {2, 2, 9000, 2}};
  for (const NormShape& shape : shapes) {
    const int64_t rows = shape.batch * shape.groups, sample = shape.channels * shape.positions;
    const int64_t size = sample / shape.groups, total = shape.batch * sample;
    for (const int64_t chunks : {int64_t{1}, shape.batch}) {
      const bool rms = chunks == 1 && shape.groups == 1;
      const auto x = Buffer<T>::random(total, offset, 1), g = Buffer<T>::random(total, offset, 1);
      const auto v = Buffer<T>::random(total, offset, 1);
      const auto to_g = Buffer<T>::poisoned(total, offset), to_x = Buffer<T>::poisoned(total, offset);
      const auto alone = Buffer<T>::poisoned(total, offset);
      const auto mean = Buffer<Wide<T>>::random(rows, 0, 0.1), weight = Buffer<Wide<T>>::random(sample, 0, 1);
      const Buffer<Wide<T>> rstd(rows, 0, 1.25);
      const auto to_weight = Buffer<Wide<T>>::poisoned(sample, 0);
      const auto partials = Buffer<Wide<T>>::poisoned(chunks * sample, 0);
      const auto workspace = Buffer<Wide<T>>::poisoned(norm_workspace(rows, size, kCode<T>), 0);
      NormAddresses at{x.address(), rms ? 0 : mean.address(), rstd.address(), weight.address(),   g.address(),
                       v.address(), to_g.address(),           to_x.address(), to_weight.address()};
      norm_double_backward(at, partials.address(), workspace.address(), chunks, kCode<T>, shape, nullptr);
      at.g = at.to_x = at.to_weight = 0;
      at.to_g = alone.address();
      norm_double_backward(at, 0, workspace.address(), chunks, kCode<T>, shape, nullptr);
      std::vector<double> sums(static_cast<size_t>(sample), 0.0);
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t begin = row * size, of_sample = row % shape.groups * size;
        const double mu = rms ? 0 : mean[row], n = double(size);
        double m1 = 0, m2 = 0, c = 0, d = 0, e = 0;
        for (int64_t i = 0; i < size; ++i) {
          const double hat = (x[begin + i] - mu) * rstd[row], weighted = g[begin + i] * weight[of_sample + i];
          m1 += rms ? 0 : weighted / n;
          m2 += weighted * hat / n;
          c += rms ? 0 : v[begin + i] / n;
          d += v[begin + i] * hat / n;
          e += v[begin + i] * weighted / n;
        }
        for (int64_t i = 0; i < size; ++i) {
          const double hat = (x[begin + i] - mu) * rstd[row], r = rstd[row], w = weight[of_sample + i];
          const double tangent = v[begin + i], signal = g[begin + i], k = r * (tangent - c - hat * d);
          sums[size_t(of_sample + i)] += signal * k;
          check(to_g[begin + i], w * k, 4 * tolerance<T>());
          check(to_x[begin + i],
                -r * r * ((tangent - c) * m2 + (signal * w - m1) * d + hat * (e - c * m1 - 3 * d * m2)),
                4 * tolerance<T>());
          check(alone[begin + i], to_g[begin + i], 0);
        }
      }
      for (int64_t i = 0; i < sample; ++i) check(to_weight[i], sums[size_t(i)], 20 * 1e-5);
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
    if (op == "activation_double_backward") exercise_activation<T>(offset);
    if (op == "clip_weights") exercise_clip_weights<T>(offset);
    if (op == "interpolate") exercise_interpolate<T>(offset);
    if (op == "gradient_norm_penalty") exercise_penalty<T>(offset);
    if (op == "norm_double_backward") exercise_norm<T>(offset);
    if (op == "rmsprop_step") exercise_rmsprop<T>(offset);
    if (op == "adam_step") exercise_adam<T>(offset);
  }
}

}  // namespace

int main(int count, char** arguments) {
  few = count > 1 && std::string(arguments[1]) == "--few";
  std::vector<std::string> ops(arguments + (few ? 2 : 1), arguments + count);
  if (ops.empty())
    ops = {"activation_double_backward", "clip_weights", "interpolate", "gradient_norm_penalty",
           "norm_double_backward",       "rmsprop_step", "adam_step"};
  for (const std::string& op : ops) {
    exercise<float>(op);
    exercise<double>(op);
    exercise<bf16>(op);
    exercise<fp16>(op);
    printf("%s: ok\n", op.c_str());
  }
}
