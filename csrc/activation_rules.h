// The slopes of smooth activations, for host and device alike: f(s) and f'(s), with s what the forward pass
// saved, the input, or where the name says so the result. reference.py is the specification
// (activation_slope).
//
// Finite for every finite s: products start from the factor that vanishes. Infinities and NaN give the
// results of autograd's formulas.
#pragma once

#include <stdexcept>
#include <string>

#include "elementary.h"

namespace wgan_fast {

// alpha, scale, input_scale of elu; beta, threshold of softplus; nothing of the others.
struct ActivationOptions {
  double a, b, c;
};

template <class W>
struct Slope {
  W value, derivative;
};

template <class W>
struct Silu {
  WGAN_FAST_HD explicit Silu(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const Logistic<W> of(s);
    const W pq = of.p * of.q;
    return {of.p + s * of.p * of.q, W(2) * pq + s * pq * (of.q - of.p)};
  }
};

template <class W>
struct Gelu {
  WGAN_FAST_HD explicit Gelu(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const W e = exponential(W(-0.5) * s * s), density = e * W(0.39894228040143267794);
    const W tail = normal_tail(magnitude(s), e);
    const W below = s < W(0) ? tail : W(1) - tail;
    return {below + s * density, W(2) * density - s * (s * density)};
  }
};

template <class W>
struct GeluTanh {
  WGAN_FAST_HD explicit GeluTanh(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const W k = W(0.79788456080286535588), c = W(0.044715);
    const Logistic<W> of(W(2) * (k * s * (W(1) + c * s * s)));  // of 2u
    const W m = W(4) * of.p * of.q;                             // 1 - tanh² u
    const W mu = k * (m + W(3) * c * s * (s * m));              // m u'
    const W muu = k * (mu + W(3) * c * s * (s * mu));           // m u'²
    return {of.p + W(0.5) * s * mu, mu + s * (W(3) * k * c * (s * m) - (of.p - of.q) * muu)};
  }
};

template <class W>
struct Elu {
  W scale, input_scale, factor;

  WGAN_FAST_HD explicit Elu(const ActivationOptions& o)
      : scale(W(o.b)), input_scale(W(o.c)), factor(W(o.a * o.b * o.c)) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const W negative = s > W(0) ? W(0) : s;
    const W e = exponential(negative * input_scale) * factor, derivative = e * input_scale;
    return {s > W(0) ? scale : e, s >= W(0) ? W(0) : derivative};
  }
};

template <class W>
struct EluResult {
  W scale, input_scale, floor;

  WGAN_FAST_HD explicit EluResult(const ActivationOptions& o)
      : scale(W(o.b)), input_scale(W(o.c)), floor(W(o.a * o.b)) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    return {s > W(0) ? scale : (s + floor) * input_scale, s >= W(0) ? W(0) : input_scale};
  }
};

template <class W>
struct Softplus {
  W beta, threshold;

  WGAN_FAST_HD explicit Softplus(const ActivationOptions& o) : beta(W(o.a)), threshold(W(o.b)) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const W z = s * beta;
    const Logistic<W> of(z);
    // At the threshold itself torch has the curve's slope and a second derivative of 0.
    return {z > threshold ? W(1) : of.p, z >= threshold ? W(0) : beta * of.p * of.q};
  }
};

template <class W>
struct TanhResult {
  WGAN_FAST_HD explicit TanhResult(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const { return {W(1) - s * s, W(-2) * s}; }
};

template <class W>
struct SigmoidResult {
  WGAN_FAST_HD explicit SigmoidResult(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const { return {s * (W(1) - s), W(1) - W(2) * s}; }
};

// x tanh(softplus(x)), as rational functions of t = e^(-|x|).
template <class W>
struct Mish {
  WGAN_FAST_HD explicit Mish(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const Logistic<W> of(s);
    const bool negative = s < W(0);
    const W t = of.t, square = t * t, twice = W(2) * t;
    const W inverse = reciprocal(negative ? W(2) + twice + square : W(1) + twice + W(2) * square);
    const W tanh = (negative ? twice + square : W(1) + twice) * inverse;
    const W root = W(2) * (negative ? W(1) + t : t + square) * inverse;  // of 1 - tanh²
    const W mp = root * root * of.p;
    return {tanh + s * mp, W(2) * mp + s * mp * (of.q - W(2) * tanh * of.p)};
  }
};

template <class W>
struct Hardswish {
  WGAN_FAST_HD explicit Hardswish(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const W inner = s / W(3) + W(0.5);
    const W upper = s >= W(3) ? W(1) : inner;
    const W third = s > W(-3) && s < W(3) ? W(1.0 / 3.0) : W(0);
    return {s <= W(-3) ? W(0) : upper, third};
  }
};

template <class W>
struct Softsign {
  WGAN_FAST_HD explicit Softsign(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const W r = reciprocal(W(1) + magnitude(s)), square = r * r, undefined = s - s;  // NaN at the infinities
    const W cube = W(-2) * square * r;
    const W of_sign = s > W(0) ? cube : (s < W(0) ? -cube : W(0));
    return {square + undefined, of_sign + undefined};
  }
};

template <class W>
struct LogSigmoid {
  WGAN_FAST_HD explicit LogSigmoid(const ActivationOptions&) {}
  WGAN_FAST_HD Slope<W> operator()(W s) const {
    const Logistic<W> of(s);
    return {of.q, -(of.p * of.q)};
  }
};

// In the order of the codes, which is that of wgan_fast/activation_table.py.
#define WGAN_FAST_ACTIVATIONS(DO) \
  DO(Silu)                        \
  DO(Gelu)                        \
  DO(GeluTanh)                    \
  DO(Elu)                         \
  DO(EluResult)                   \
  DO(Softplus)                    \
  DO(TanhResult)                  \
  DO(SigmoidResult)               \
  DO(Mish)                        \
  DO(Hardswish)                   \
  DO(Softsign)                    \
  DO(LogSigmoid)

// Calls body(rule) with the rule, over W, of a code from Python.
template <class W, class Body>
void with_activation(int code, const ActivationOptions& options, Body&& body) {
  int candidate = 0;
#define WGAN_FAST_CASE(Rule) \
  if (code == candidate++) return body(Rule<W>(options));
  WGAN_FAST_ACTIVATIONS(WGAN_FAST_CASE)
#undef WGAN_FAST_CASE
  throw std::invalid_argument("unknown activation code " + std::to_string(code));
}

}  // namespace wgan_fast
