// FusedMoe: the routed experts of one layer, each a gated MLP, weighted and summed per token.
#pragma once

#include "kernels/weight.h"
#include "layers/context.h"
#include "layers/gated_mlp.h"
#include "layers/quantized_input.h"

namespace nibble::layers {

class FusedMoe {
 public:
  FusedMoe(std::int64_t num_experts, std::int64_t hidden_size, std::int64_t moe_intermediate_size);
  // One group per expert. gate, up: [moe_intermediate_size, hidden_size]; down: the transpose's shape.
  FusedMoe(kernels::Weight gate, kernels::Weight up, kernels::Weight down);

  // y += sum over each token's experts of weight * expert(x). x, y: [m, hidden_size] f32, not
  // overlapping; topk_ids: [m, topk] i32; topk_weights: [m, topk] f32.
  // Where takes_along says so, `shared` may be given: y += shared(x) too, in the same kernels.
  void forward_add(Context& ctx, const QuantizedInput& x, TensorView topk_ids, TensorView topk_weights,
                   TensorView y, const GatedMlp* shared = nullptr) const;
  // Whether the backend wants the shared experts with the routed ones rather than beside them. x, topk_ids:
  // as above, of which only sizes matter.
  [[nodiscard]] bool takes_along(Context& ctx, const GatedMlp& shared, TensorView x,
                                 TensorView topk_ids) const;

  // What gate and up want their input as.
  [[nodiscard]] quant::ActivationFormat activations() const noexcept { return gate_proj_.shape.activations; }

  // For loading, once.
  [[nodiscard]] kernels::Weight& gate_proj() noexcept { return gate_proj_; }
  [[nodiscard]] kernels::Weight& up_proj() noexcept { return up_proj_; }
  [[nodiscard]] kernels::Weight& down_proj() noexcept { return down_proj_; }

 private:
  // For calibration: which rows of x, and of hidden [m * topk, moe_intermediate_size], every expert gets.
  void record_inputs(Context& ctx, TensorView x, TensorView topk_ids, TensorView hidden) const;

  kernels::Weight gate_proj_;
  kernels::Weight up_proj_;
  kernels::Weight down_proj_;
};

}  // namespace nibble::layers
