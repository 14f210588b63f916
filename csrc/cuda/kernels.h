// The operations of the CUDA backend, as called by the binding. Addresses are those of dense blocks of device
// memory; dtype codes are those of dtypes.h; stream is the caller's cudaStream_t on the current device.
// They allocate no device memory and do not synchronise, and what Python has checked is not checked again. A
// launch that fails throws std::runtime_error with the name of the operation.
#pragma once

#include <cstdint>
#include <vector>

#include "activation_rules.h"
#include "dtypes.h"
#include "norm_rules.h"
#include "rules.h"

namespace wgan_fast {

// Clamps block i, of sizes[i] elements, to [lo, hi]; all blocks of one dtype.
void clip_weights(const std::vector<int64_t>& addresses, const std::vector<int64_t>& sizes, int code,
                  double lo, double hi, void* stream);

// out[b, :] = fake[b, :] + alpha[b] (real[b, :] - fake[b, :]) over `batch` rows of `total` elements in all;
// alpha is fp32 (fp64 for fp64).
void interpolate(int64_t real, int64_t fake, int64_t alpha, int64_t out, int64_t batch, int64_t total,
                 int code, void* stream);

// How many values of workspace, in the accumulation dtype, gradient_norm_penalty needs for this shape.
int64_t penalty_workspace(int64_t batch, int64_t row_size, int code);

// norms[b] = ‖gradients[b, :]‖, value = the penalty on them (one number, or one per row for kNone), and
// slope, unless its address is 0, the gradient of value. norms, value and workspace are fp32 (fp64 for fp64).
void gradient_norm_penalty(int64_t gradients, int64_t slope, int64_t norms, int64_t value, int64_t workspace,
                           int64_t batch, int64_t total, int code, PenaltyOptions options,
                           Reduction reduction, void* stream);

// The gradients of an activation's backward, g f(saved), given v: to_g = v f(saved) and
// to_saved = v g f'(saved), over `size` elements. A null output is not computed; g may be null where to_saved
// is.
void activation_double_backward(int64_t saved, int64_t g, int64_t v, int64_t to_g, int64_t to_saved,
                                int64_t size, int code, int activation, const ActivationOptions& options,
                                void* stream);

// How many values of workspace, in the accumulation dtype, norm_double_backward needs for rows of this size.
int64_t norm_workspace(int64_t rows, int64_t size, int code);

// The gradients of a norm's backward, given v, with respect to g and x, in the dtype of the
// code, and to the weight; mean, rstd, weight, to_weight, partials and workspace are fp32 (fp64 for fp64).
// Weight and to_weight have a value for each of a sample; the latter is computed where partials, of `chunks`
// times that, is not null. The samples are processed in that many chunks, none of them empty.
void norm_double_backward(const NormAddresses& addresses, int64_t partials, int64_t workspace, int64_t chunks,
                          int code, const NormShape& shape, void* stream);

// A learning rate on the device, read by the kernel at every launch and every replay; without one it is
// options.lr.
struct DeviceLr {
  const void* address;
  bool is_double;

  WGAN_FAST_HD bool given() const { return address != nullptr; }
  WGAN_FAST_HD double read() const {
    return is_double ? *static_cast<const double*>(address) : *static_cast<const float*>(address);
  }
};

// One update of every row. Its step counts the steps before this one: on the host, where it is advanced here,
// or on the device (capturable), where the caller advances it afterwards, on the same stream. Blocks:
// parameter, gradient, square_avg, then grad_avg if centred, then momentum_buffer if there is momentum.
void rmsprop_step(const std::vector<StepRow>& rows, int code, bool centered, bool with_momentum,
                  const RMSpropOptions& options, DeviceLr lr, bool steps_on_device, void* stream);

// Blocks: parameter, gradient, exp_avg, exp_avg_sq, then max_exp_avg_sq if amsgrad.
void adam_step(const std::vector<StepRow>& rows, int code, bool amsgrad, const AdamOptions& options,
               DeviceLr lr, bool steps_on_device, void* stream);

}  // namespace wgan_fast
