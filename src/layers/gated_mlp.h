// GatedMlp: down(silu(gate(x)) * up(x)), the dense feed-forward block and the shared experts.
#pragma once

#include "kernels/args/moe.h"
#include "kernels/weight.h"
#include "layers/context.h"
#include "layers/linear.h"

namespace nibble::layers {

class GatedMlp {
 public:
  GatedMlp(std::int64_t hidden_size, std::int64_t intermediate_size);
  // gate, up: [intermediate_size, hidden_size] of one format; down: [hidden_size, intermediate_size].
  GatedMlp(kernels::Weight gate, kernels::Weight up, kernels::Weight down);

  // x: [m, hidden_size] f32, y: [m, hidden_size] f32, not overlapping.
  void forward(Context& ctx, TensorView x, TensorView y) const;
  // The same for an input that other layers share.
  void forward(Context& ctx, const QuantizedInput& x, TensorView y) const;

  [[nodiscard]] kernels::SharedExperts as_shared_experts() const noexcept {
    return {.gate = gate_proj_, .up = up_proj_, .down = down_proj_.weight()};
  }

  // What gate and up want their input as.
  [[nodiscard]] quant::ActivationFormat activations() const noexcept { return gate_proj_.shape.activations; }

  // For loading, once.
  [[nodiscard]] kernels::Weight& gate_proj() noexcept { return gate_proj_; }
  [[nodiscard]] kernels::Weight& up_proj() noexcept { return up_proj_; }
  [[nodiscard]] kernels::Weight& down_proj() noexcept { return down_proj_.weight(); }

 private:
  kernels::Weight gate_proj_;
  kernels::Weight up_proj_;
  Linear down_proj_;
};

}  // namespace nibble::layers
