// The arithmetic of one element, for host and device alike: what the kernels compute, independently of how
// they walk over memory. reference.py is the specification; the order of operations here is that of torch's
// own kernels, so that fp32 results agree to the bit wherever the compiler does not contract products and
// sums.
#pragma once

#include <cmath>

#include "floats.h"

namespace wgan_fast {

// ---------------------------------------------------------------------------------------------- clip_weights

// Comparisons are false for NaN and for -0.0 against 0.0, so both stay as they are, as in torch.clamp.
template <class W>
WGAN_FAST_HD W clamp(W value, W lo, W hi) {
  const W raised = value < lo ? lo : value;
  return raised > hi ? hi : raised;
}

// The clamp of stored values: either a value's own bits or a bound's are kept, so that none is rounded twice.
template <class T>
struct ClipBounds {
  Wide<T> lo, hi;
  T stored_lo, stored_hi;

  // torch rounds the bounds to the tensor's dtype before it compares.
  ClipBounds(double low, double high)
      : stored_lo(narrow<T>(Wide<T>(low))), stored_hi(narrow<T>(Wide<T>(high))) {
    lo = widen(stored_lo);
    hi = widen(stored_hi);
  }

  WGAN_FAST_HD T operator()(T stored) const {
    const Wide<T> value = widen(stored);
#if defined(__CUDA_ARCH__)
    // At a bound of zero torch's CUDA kernel orders -0.0 below 0.0, its CPU kernel keeps the value.
    return value != value ? stored : narrow<T>(min(max(value, lo), hi));
#else
    const T raised = value < lo ? stored_lo : stored;
    return value > hi ? stored_hi : raised;
#endif
  }
};

// ----------------------------------------------------------------------------------------------- interpolate

// fake + alpha (real - fake), anchored at the nearer end, as torch.lerp has it: exact at alpha = 0 and alpha
// = 1.
template <class W>
WGAN_FAST_HD W lerp(W fake, W real, W alpha) {
  const W span = real - fake;
  return alpha < W(0.5) ? fake + alpha * span : real - span * (W(1) - alpha);
}

// ------------------------------------------------------------------------------------- gradient_norm_penalty

enum class Reduction { kMean, kSum, kNone };

struct PenaltyOptions {
  double target;
  double weight;
  double scale;  // 1/B for the mean, else 1
  bool one_sided;
};

// The options as the arithmetic uses them: combined in fp64 and rounded once, outside every loop.
template <class W>
struct PenaltyConstants {
  W target, weight, slope_factor;
  bool one_sided;

  WGAN_FAST_HD PenaltyConstants(const PenaltyOptions& o)
      : target(W(o.target)),
        weight(W(o.weight)),
        slope_factor(W(2 * o.weight * o.scale)),
        one_sided(o.one_sided) {}
};

template <class W>
WGAN_FAST_HD W penalty_excess(W norm, const PenaltyConstants<W>& constants) {
  const W excess = norm - constants.target;
  return constants.one_sided && excess < W(0) ? W(0) : excess;
}

template <class W>
WGAN_FAST_HD W penalty_value(W norm, const PenaltyConstants<W>& constants) {
  const W excess = penalty_excess(norm, constants);
  return constants.weight * excess * excess;
}

// The slope of the penalty over the gradient; 0 where the norm is 0.
template <class W>
WGAN_FAST_HD W penalty_coefficient(W norm, const PenaltyConstants<W>& constants) {
  return norm == W(0) ? W(0) : constants.slope_factor * penalty_excess(norm, constants) / norm;
}

// -------------------------------------------------------------------------------------------- optimizer_step

struct RMSpropOptions {
  double lr, alpha, eps, weight_decay, momentum;
  bool maximize;
  double lo, hi;
};

template <class W>
struct RMSpropConstants {
  W lr, alpha, one_minus_alpha, eps, weight_decay, momentum;
  bool maximize;

  WGAN_FAST_HD RMSpropConstants(const RMSpropOptions& o)
      : lr(W(o.lr)),
        alpha(W(o.alpha)),
        one_minus_alpha(W(1 - o.alpha)),
        eps(W(o.eps)),
        weight_decay(W(o.weight_decay)),
        momentum(W(o.momentum)),
        maximize(o.maximize) {}
};

// Updates the moments in place and returns the parameter before the clamp.
template <class W, bool kCentered, bool kMomentum>
WGAN_FAST_HD W rmsprop(W p, W g, W& square_avg, W& grad_avg, W& momentum_buffer,
                       const RMSpropConstants<W>& o) {
  g = o.maximize ? -g : g;
  g = o.weight_decay != W(0) ? g + o.weight_decay * p : g;
  square_avg = square_avg * o.alpha + o.one_minus_alpha * g * g;
  W variance = square_avg;
  if (kCentered) {
    grad_avg = lerp(grad_avg, g, o.one_minus_alpha);
    variance = square_avg - grad_avg * grad_avg;
  }
  const W denominator = std::sqrt(variance) + o.eps;
  if (kMomentum) {
    momentum_buffer = momentum_buffer * o.momentum + g / denominator;
    return p - o.lr * momentum_buffer;
  }
  return p - o.lr * g / denominator;
}

struct AdamOptions {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled_weight_decay, maximize;
  double lo, hi;
};

template <class W>
struct AdamConstants {
  W one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay;
  bool decoupled_weight_decay, maximize;

  WGAN_FAST_HD AdamConstants(const AdamOptions& o)
      : one_minus_beta1(W(1 - o.beta1)),
        beta2(W(o.beta2)),
        one_minus_beta2(W(1 - o.beta2)),
        eps(W(o.eps)),
        weight_decay(W(o.weight_decay)),
        decoupled_weight_decay(o.decoupled_weight_decay),
        maximize(o.maximize) {}
};

// What depends on the learning rate and on the number of steps taken, computed once per tensor.
template <class W>
struct AdamCorrection {
  W step_size;                // lr / (1 - beta1^step)
  W inverse_root_correction;  // 1 / sqrt(1 - beta2^step)
  W kept;                     // 1 - lr weight_decay, the factor of the decoupled decay
};

WGAN_FAST_HD double adam_weight_sum(double beta, double step) { return 1 - pow(beta, step); }

// From the weight sums of both moments.
template <class W>
WGAN_FAST_HD AdamCorrection<W> adam_correction(double first, double second, const AdamOptions& o) {
  return {W(o.lr / first), W(1 / sqrt(second)), W(1 - o.lr * o.weight_decay)};
}

template <class W>
WGAN_FAST_HD AdamCorrection<W> adam_correction(double step, const AdamOptions& o) {
  return adam_correction<W>(adam_weight_sum(o.beta1, step), adam_weight_sum(o.beta2, step), o);
}

template <class W, bool kAmsgrad>
WGAN_FAST_HD W adam(W p, W g, W& exp_avg, W& exp_avg_sq, W& max_exp_avg_sq,
                    const AdamCorrection<W>& correction, const AdamConstants<W>& o) {
  g = o.maximize ? -g : g;
  if (o.weight_decay != W(0)) {
    if (o.decoupled_weight_decay) {
      p = p * correction.kept;
    } else {
      g = g + o.weight_decay * p;
    }
  }
  exp_avg = lerp(exp_avg, g, o.one_minus_beta1);
  exp_avg_sq = exp_avg_sq * o.beta2 + o.one_minus_beta2 * g * g;
  W variance = exp_avg_sq;
  if (kAmsgrad) {
    // The larger one, and NaN if either is: torch.maximum.
    const bool keep = max_exp_avg_sq >= variance || max_exp_avg_sq != max_exp_avg_sq;
    max_exp_avg_sq = keep ? max_exp_avg_sq : variance;
    variance = max_exp_avg_sq;
  }
  const W denominator = std::sqrt(variance) * correction.inverse_root_correction + o.eps;
  return p - correction.step_size * exp_avg / denominator;
}

}  // namespace wgan_fast
