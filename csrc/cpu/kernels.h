// The operations of the CPU backend, as called by the binding. Addresses are those of dense blocks of memory;
// dtype codes are those of dtypes.h. No tensor is allocated here, and what Python has checked is not checked
// again.
#pragma once

#include <cstdint>
#include <vector>

#include "activation_rules.h"
#include "dtypes.h"
#include "norm_rules.h"
#include "rules.h"

namespace wgan_fast {

// Clamps block i, of sizes[i] elements of dtype codes[i], to [lo, hi].
void clip_weights(const std::vector<int64_t>& addresses, const std::vector<int64_t>& sizes,
                  const std::vector<int64_t>& codes, double lo, double hi, int threads);

// out[b, :] = fake[b, :] + alpha[b] (real[b, :] - fake[b, :]) over `batch` rows of `total` elements in all;
// alpha is fp32 (fp64 for fp64).
void interpolate(int64_t real, int64_t fake, int64_t alpha, int64_t out, int64_t batch, int64_t total,
                 int code, int threads);

// norms[b] = ‖gradients[b, :]‖, value = the penalty on them (one number, or one per row for kNone), and
// slope, unless its address is 0, the gradient of value. norms and value are fp32 (fp64 for fp64).
void gradient_norm_penalty(int64_t gradients, int64_t slope, int64_t norms, int64_t value, int64_t batch,
                           int64_t total, int code, PenaltyOptions options, Reduction reduction, int threads);

// The gradients of an activation's backward, g f(saved), given v: to_g = v f(saved) and
// to_saved = v g f'(saved), over `size` elements. A null output is not computed; g may be null where to_saved
// is.
void activation_double_backward(int64_t saved, int64_t g, int64_t v, int64_t to_g, int64_t to_saved,
                                int64_t size, int code, int activation, const ActivationOptions& options,
                                int threads);

// The gradients of a norm's backward, given v, with respect to g and x, in the dtype of the
// code, and to the weight; mean, rstd, weight and to_weight are fp32 (fp64 for fp64).
void norm_double_backward(const NormAddresses& at, int code, const NormShape& shape, int threads);

// One update of every row, of dtype codes[row]; the step counts are advanced here.
// Blocks: parameter, gradient, square_avg, then grad_avg if centred, then momentum_buffer if there is
// momentum.
void rmsprop_step(const std::vector<StepRow>& rows, const std::vector<int64_t>& codes, bool centered,
                  bool with_momentum, const RMSpropOptions& options, int threads);

// Blocks: parameter, gradient, exp_avg, exp_avg_sq, then max_exp_avg_sq if amsgrad.
void adam_step(const std::vector<StepRow>& rows, const std::vector<int64_t>& codes, bool amsgrad,
               const AdamOptions& options, int threads);

}  // namespace wgan_fast
