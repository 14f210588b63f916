// The double backward of a norm, for host and device alike; reference.py is the specification
// (norm_double_backward).
//
//   x̂ = (x - μ) r,  ĝ = g w,  dx = r (ĝ - m₁ - x̂ m₂),  m₁ = mean ĝ, m₂ = mean ĝ x̂
//
// With v the gradient that arrives at dx and c = mean v, d = mean v x̂, e = mean v ĝ:
//
//   k = r (v - c - x̂ d),  to g: w k,  to w: Σ g k,
//   to x: -r² ((v - c) m₂ + (ĝ - m₁) d + x̂ (e - c m₁ - 3 d m₂))
//
// The means over h = -r (v m₂ + ĝ d) in the chain rule are mean h = -r (c m₂ + m₁ d) and
// mean h x̂ = -2 r d m₂, so one read for the five means and one for the results suffice. Without a mean (rms
// norm) μ, c and m₁ are 0.
#pragma once

#include <cstdint>

#include "floats.h"

namespace wgan_fast {

// x is (batch, channels, positions), contiguous; the channels of a sample are cut into groups, the values of
// each of which are a row, normalised together.
struct NormShape {
  int64_t batch, channels, positions, groups;
};

// Addresses. An absent mean is that of rms norm, an absent weight is 1, an absent result is not computed; g
// may be absent where only to_g is needed.
struct NormAddresses {
  int64_t x, mean, rstd, weight, g, v;
  int64_t to_g, to_x, to_weight;
};

// Sums over the values of a row, or of a part of one.
template <class W>
struct NormSums {
  W v, vx, g, gx, vg;  // of v, v x̂, ĝ, ĝ x̂, v ĝ

  WGAN_FAST_HD void add(const NormSums& other) {
    v += other.v;
    vx += other.vx;
    g += other.g;
    gx += other.gx;
    vg += other.vg;
  }
  // The contribution of a part of a row with one weight, from the sums of g without the weight.
  WGAN_FAST_HD NormSums weighted(W w) const { return {v, vx, w * g, w * gx, w * vg}; }
};

// The constants of a row.
template <class W>
struct NormRow {
  W mean, rstd;     // of x
  W c, d, m1;       // as above
  W of_v, of_g, q;  // factors of v - c, ĝ - m₁ and x̂ in the gradient with respect to x

  WGAN_FAST_HD NormRow(W mean, W rstd, const NormSums<W>& sums, W size, bool centered)
      : mean(mean),
        rstd(rstd),
        c(centered ? sums.v / size : W(0)),
        d(sums.vx / size),
        m1(centered ? sums.g / size : W(0)) {
    const W m2 = sums.gx / size, e = sums.vg / size, squared = rstd * rstd;
    of_v = -squared * m2;
    of_g = -squared * d;
    q = -squared * (e - c * m1 - W(3) * d * m2);
  }
  WGAN_FAST_HD W normalized(W x) const { return (x - mean) * rstd; }
  WGAN_FAST_HD W k(W v, W normalized) const { return rstd * (v - c - normalized * d); }
  WGAN_FAST_HD W to_x(W v, W weighted_g, W normalized) const {
    return (v - c) * of_v + (weighted_g - m1) * of_g + normalized * q;
  }
  // The sum of g k over a part of the row, from the sums of g without the weight.
  WGAN_FAST_HD W to_weight(const NormSums<W>& part) const {
    return rstd * (part.vg - c * part.g - d * part.gx);
  }
};

}  // namespace wgan_fast
