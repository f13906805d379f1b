// Arguments of the mixture-of-experts ops.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "kernels/weight.h"

namespace nibble::kernels {

enum class ScoringFunc : std::uint8_t { softmax, sigmoid };
enum class GroupScore : std::uint8_t { max, top2_sum };  // V2: best score; V3: sum of the two best

// From router logits to experts and weights (DeepSeek-V2 section 2.2, V3 section 2.1.2). All float32;
// ties go to the lower index. Experts of a token are written in ascending id order.
struct TopkGateArgs {
  TensorView logits;  // [m, num_experts] f32; with `gate`: room for them, undefined afterwards
  // Not null: the logits are x * gate^T, in float32 on every tier.
  const Weight* gate = nullptr;  // one group, [num_experts, k]
  TensorView x{};                // [m, k] f32
  const float* correction_bias;  // [num_experts] or null; only takes part in choosing
  ScoringFunc scoring;
  GroupScore group_score;
  std::int32_t n_group;  // 1 = no groups
  std::int32_t topk_group;
  std::int32_t topk;
  bool norm_topk_prob;  // divide by (sum + 1e-20)
  float routed_scaling_factor;
  std::int32_t* topk_ids;  // [m, topk]
  float* topk_weights;     // [m, topk]
};

// A gated MLP that every token passes with weight 1.
struct SharedExperts {
  const Weight& gate;  // one group each: [shared_n, k]
  const Weight& up;    // [shared_n, k]
  const Weight& down;  // [k, shared_n]
};

// y[t] += sum over the token's experts e of weight * down[e](silu(gate[e] x[t]) * (up[e] x[t])).
// Tokens are sorted by expert so that each expert's weights are read once per call; the sum over a
// token's experts runs in ascending id order, so results do not depend on the rest of the batch.
// An id of -1 (expert on another rank) contributes nothing. x is as gate and up want it (activations of
// their shape); the hidden values are quantised here as down wants them.
struct FusedMoeArgs {
  TensorView x;                  // [m, k] f32
  const std::int32_t* topk_ids;  // [m, topk]
  const float* topk_weights;     // [m, topk]
  std::int32_t topk;
  const Weight& gate;  // [experts][n, k]
  const Weight& up;    // [experts][n, k]
  const Weight& down;  // [experts][k, n]
  TensorView y;        // [m, k] f32
  // [m * topk, n] f32, contiguous, or rank 0 = not wanted: the hidden values of each token's experts
  // before they are quantised, for calibration.
  TensorView hidden{};
  // y also gets the output of these, before the routed experts'. Only where
  // KernelTable::takes_shared_experts.
  const SharedExperts* shared = nullptr;
};

// The row of args.hidden for this expert of a token, which has it.
inline float* hidden_row(const FusedMoeArgs& args, std::int64_t token, std::int32_t expert) {
  std::int64_t slot = token * args.topk;
  while (args.topk_ids[slot] != expert) ++slot;
  return args.hidden.f32() + slot * args.gate.shape.n;
}

}  // namespace nibble::kernels
