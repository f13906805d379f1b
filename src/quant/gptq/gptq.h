// GPTQ (Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative
// Pre-trained Transformers", 2022): integer codes chosen one input channel after the other, each channel's
// rounding error compensated in the channels that follow, so that ||(W - Q) X|| stays small.
//
// With H = X^T X + damping and H^-1 = U^T U (U upper triangular), channel i of every row is rounded to q,
// and the row's later weights j change by -(w_i - q) / U_ii * U_ij.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "nibble/result.h"
#include "quant/encode/encode.h"

namespace nibble::quant {

struct HessianOptions {
  // Added to the diagonal, as a part of its mean. Raised tenfold, up to 1, while the sum is not positive
  // definite.
  double damp_percent = 0.01;
  // Channels with the largest diagonal first: what matters most is rounded while most can compensate.
  bool act_order = false;
};

// U, computed once for all matrices that share their input. Memory: 4 k^2 bytes (12 k^2 while factoring).
class HessianFactor {
 public:
  // hessian: [k, k], of which the upper triangle is read (HessianAccumulator::upper). Channels that never
  // saw an input (zero diagonal) are rounded to nearest. bad_input for numbers that are not finite or a
  // matrix that stays indefinite; out_of_memory.
  static Result<HessianFactor> compute(std::span<const float> hessian, std::int64_t k,
                                       const HessianOptions& options, ThreadPool& threads);

  [[nodiscard]] std::int64_t k() const noexcept { return static_cast<std::int64_t>(order_.size()); }
  // The channel that is rounded i-th.
  [[nodiscard]] std::span<const std::int32_t> order() const noexcept { return order_; }
  [[nodiscard]] bool act_order() const noexcept { return act_order_; }
  // Row i of U, in the order of rounding.
  [[nodiscard]] const float* row(std::int64_t i) const noexcept { return upper_.as<float>() + i * k(); }
  // What was needed.
  [[nodiscard]] double damp_percent() const noexcept { return damp_percent_; }

 private:
  HessianFactor() = default;

  std::vector<std::int32_t> order_;
  bool act_order_ = false;
  double damp_percent_ = 0.0;
  Buffer upper_;
};

struct GptqOptions {
  WeightFormat format = WeightFormat::int4;  // or int8
  std::int64_t group_k = 0;                  // as in EncodeOptions
  bool zero_points = false;
  ScaleRule scales = ScaleRule::plain;
  // Groups of consecutive channels whose scales come from the weights as they are, also with act_order, so
  // that no g_idx is needed. Otherwise a group is what is rounded one after the other, and its scale is
  // chosen when its turn comes, from the compensated weights.
  bool static_groups = false;
};

struct GptqMatrix {
  EncodedMatrix matrix;             // int4 or int8, F16 scales
  std::vector<std::int32_t> g_idx;  // the group of each channel: with act_order and without static_groups
  double loss = 0.0;                // trace of (W - Q) H (W - Q)^T, damping included

  // The pointers lead into this object.
  [[nodiscard]] MatrixView view() const noexcept;
};

// w: [n, k], finite. bad_input as EncodedMatrix::allocate.
Result<GptqMatrix> gptq_quantize(const float* w, std::int64_t n, const HessianFactor& factor,
                                 const GptqOptions& options, ThreadPool& threads);

}  // namespace nibble::quant
